// Both ends of a model, embedding and head with its loss, against double precision.
#include <cmath>

#include <memory>

#include "ops/gelu_testing.h"
#include "ops/ops.h"
#include "ops/reference_testing.h"
#include "ops/row_sums.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

struct HeadShape {
  int64_t R, C, V;
};

Op head_op(const Tensor& labels) {
  return {[=](const Tensors& x, const Sums& sums) {
            return cross_entropy(x[0], weight_at(x, sums, 1), labels);
          },
          [=](const Tensors& x) { return reference::cross_entropy(x[0], x[1], labels); }};
}

// Logits are off by C u |h||w|; powers exp(x - top) relatively by that, by the roundings of their
// exponent (beyond 104 they are zero) and the exponential's error; their sum by the same on average
// and V u. The gradient by the logits is rounded to the weight's type, that by h once more before
// it is multiplied with dy.
Bounds head_bounds(const Tensors& inputs, const Tensor& labels, double dy) {
  const auto type = inputs[1].scalar_type();
  const Tensor w = f64(inputs[1]), h = f64(inputs[0]).reshape({-1, w.size(1)});
  const double u = kUnit32, R = double(h.size(0)), V = double(w.size(0));
  const double rounding = type == at::kBFloat16 ? kUnitBf16 : 0;
  const Tensor logits = at::matmul(h, w.t()), error = product_error(h, w.t());
  const Tensor p = at::softmax(logits, -1);
  const Tensor depth = (logits.amax(-1, true) - logits).clamp_max(104);
  const Tensor power_error = error + depth * (3 * u) + kExp;
  const Tensor sum_error = (p * power_error).sum(-1, true) + V * u;
  const Tensor picked = labels.reshape({-1, 1});
  const Tensor loss_error = (sum_error + error.gather(1, picked)).mean();
  const Tensor onehot = at::zeros_like(p).scatter_(1, picked, 1);
  const Tensor dl = (p - onehot) * (dy / R);
  const Tensor dl_error =
      (p * (power_error + sum_error + 4 * u) + onehot * (2 * u)) * (dy / R) + dl.abs() * rounding;
  const Tensor dh = at::matmul(dl_error, w.abs()) + at::matmul(dl.abs(), w.abs()) * ((V + 3) * u) +
                    at::matmul(dl, w).abs() * rounding;
  const Tensor dw =
      at::matmul(dl_error.t(), h.abs()) + at::matmul(dl.abs().t(), h.abs()) * ((R + 3) * u);
  return {loss_error, {dh.reshape(inputs[0].sizes()), dw}};
}

// The first and the last token of the vocabulary are among the labels.
Tensor draw_labels(int64_t R, int64_t V) {
  const Tensor labels = at::randint(0, V, {R}, at::kLong);
  labels[0] = V - 1;
  labels[R - 1] = 0;
  return labels;
}

void check_head(const HeadShape& s, at::ScalarType type, double dy, double scale = 1) {
  SCOPED_TRACE(testing::Message() << "R " << s.R << " C " << s.C << " V " << s.V << " dy " << dy
                                  << " " << type);
  const Tensors inputs = {(at::randn({s.R, s.C}) * scale).to(type), at::randn({s.V, s.C}).to(type)};
  const Tensor labels = draw_labels(s.R, s.V);
  check(head_op(labels), inputs, at::scalar_tensor(dy), 1, head_bounds(inputs, labels, dy));
}

// More rows than 1024 are done in chunks.
TEST(CrossEntropy, ForwardAndGradientsMatchDouble) {
  at::manual_seed(1);
  const std::vector<HeadShape> shapes = {
      {1, 1, 1},     {1, 16, 7},    {1, 33, 50},   {7, 5, 11},      {65, 20, 63},  {64, 48, 64},
      {33, 64, 129}, {1023, 8, 47}, {1024, 9, 48}, {1025, 16, 100}, {2100, 7, 31}, {40, 100, 1003}};
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const HeadShape& s : shapes) check_head(s, type, 1.0);
  }
}

TEST(CrossEntropy, IsRightForAnyIncomingGradient) {
  Random random(2);
  for (const double dy : {0.25, 1.0, 3.0}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      check_head({random.upto(60), random.upto(40), random.upto(90)}, type, dy);
    }
  }
  check_head({1040, 6, 17}, at::kFloat, 3.0);
  check_head({1040, 6, 17}, at::kBFloat16, 0.25);
}

TEST(CrossEntropy, IsRightForAnyThreadCount) {
  at::manual_seed(3);
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    check_head({70, 30, 77}, at::kFloat, 1.0);
    check_head({70, 30, 77}, at::kBFloat16, 1.0);
  }
}

// Logits of about +-10000: one takes all, and the loss is the difference to it.
TEST(CrossEntropy, LargeLogitsStayFinite) {
  at::manual_seed(4);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    check_head({30, 16, 70}, type, 1.0, 2500.0);
    const Tensor h = at::full({2, 1}, 1.0).to(type);
    const Tensor w = at::full({40, 1}, -1e4).to(type);
    w[39][0] = 1e4;
    const double top = w[39][0].item<double>();
    const Tensor labels = at::tensor({39, 0}, at::kLong);
    EXPECT_EQ(cross_entropy(h, {w}, labels).item<double>(), top);  // (0 + 2 top) / 2
  }
}

TEST(CrossEntropy, TakesAnyLeadingDimensions) {
  at::manual_seed(5);
  const Tensor labels = draw_labels(12, 50);
  const Tensors flat = {at::randn({12, 20}), at::randn({50, 20})};
  const Tensors wide = {flat[0].view({3, 4, 20}), flat[1]};
  const Tensor one = at::scalar_tensor(1.0);
  const Outcome a = run(head_op(labels), flat, one),
                b = run(head_op(labels.view({3, 4})), wide, one);
  expect_same_bits(a.y, b.y);
  expect_same_bits(a.grads[0].view({3, 4, 20}), b.grads[0]);
  expect_same_bits(a.grads[1], b.grads[1]);
}

TEST(CrossEntropy, WithoutGradientsItIsTheSameLoss) {
  at::manual_seed(6);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const HeadShape& s :
         {HeadShape{1, 4, 9}, HeadShape{70, 32, 65}, HeadShape{1100, 12, 48}}) {
      const Tensor h = at::randn({s.R, s.C}).to(type), w = at::randn({s.V, s.C}).to(type);
      const Tensor labels = draw_labels(s.R, s.V);
      GradientSum sum{at::full(w.sizes(), NAN)};
      const Tensor with = cross_entropy(h.detach().requires_grad_(true), {w}, labels);
      const at::NoGradGuard guard;
      expect_same_bits(cross_entropy(h, {w, &sum}, labels), with.detach());
      EXPECT_EQ(sum.state, GradientSum::kEmpty);
    }
  }
}

// An empty sum is the op's to work in between the passes; a filled one is only added to.
TEST(CrossEntropy, BorrowsAnEmptySum) {
  at::manual_seed(7);
  const Tensor labels = draw_labels(20, 30), one = at::scalar_tensor(1.0);
  const Tensor h = at::randn({20, 8}).requires_grad_(true), w = at::randn({30, 8});
  const Tensor truth = run(head_op(labels), {h, w}, one).grads[1];
  GradientSum sum{at::full(w.sizes(), NAN)};
  for (int use = 1; use <= 2; ++use) {
    const Tensor loss = cross_entropy(h, {w, &sum}, labels);
    EXPECT_EQ(sum.state, use == 1 ? GradientSum::kLent : GradientSum::kFilled);
    torch::autograd::grad({loss}, {h}, {one});
    EXPECT_EQ(sum.state, GradientSum::kFilled);
    expect_same_bits(sum.sum, truth * use);
  }
}

// Ops that use the weight after the head give their gradients first, while the head works in its
// sum: a product, rows that are looked up, a second loss of the same weight.
TEST(CrossEntropy, MayShareItsWeightWithOpsThatFollow) {
  at::manual_seed(12);
  const int64_t R = 20;
  const Tensor labels = draw_labels(R, 30), one = at::scalar_tensor(1.0);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor h = at::randn({R, 8}).to(type), wpe = at::randn({R, 8}).to(type);
    const Tensor w = at::randn({30, 8}).to(type).requires_grad_(true);
    const Tensors dy = {at::scalar_tensor(0.25), at::randn({R, 30}).to(type), at::randn({1, R, 8}),
                        one};
    const auto gradient_of = [&](const std::vector<size_t>& uses) {
      GradientSum sum{at::full(w.sizes(), NAN)};
      const Weight weight{w, &sum};
      Tensors outputs, gradients;
      for (const size_t use : uses) {
        outputs.push_back(use == 1   ? linear(h, {weight, {}})
                          : use == 2 ? embedding(labels.view({1, R}), weight, {wpe, nullptr})
                                     : cross_entropy(h, weight, labels));
        gradients.push_back(dy[use]);
      }
      torch::autograd::grad(outputs, {w}, gradients, false, false, /*allow_unused=*/true);
      EXPECT_EQ(sum.state, GradientSum::kFilled);
      return f64(sum.sum);
    };
    // Four gradients are added in fp32, in another order; the terms of the product each by itself.
    Tensor expected = at::zeros(w.sizes(), at::kDouble);
    Tensor magnitude = at::matmul(f64(dy[1]).t().abs(), f64(h).abs());
    for (const size_t use : {0, 1, 2, 3}) {
      expected += gradient_of({use});
      magnitude += gradient_of({use}).abs();
    }
    expect_close(gradient_of({0, 1, 2, 3}), expected, magnitude * (double(R + 4) * kUnit32));
    expect_close(gradient_of({3, 2, 1, 0}), expected, magnitude * (double(R + 4) * kUnit32));
  }
}

// Their rows get no gradient, and the mean is over the others.
TEST(CrossEntropy, LabelsThatDoNotCountChangeNothing) {
  at::manual_seed(13);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t R : {5, 1100}) {
      const Tensor h = at::randn({R, 16}).to(type), w = at::randn({40, 16}).to(type);
      const Tensor labels = draw_labels(R, 40);
      const Tensor some = at::arange(R).remainder(3) == 1;
      labels.masked_fill_(some, kIgnoredLabel);
      const Tensor counted = at::nonzero(~some).view({-1});
      const Tensor dy = at::scalar_tensor(0.7);
      const Outcome all = run(head_op(labels), {h, w}, dy);
      const Outcome few =
          run(head_op(labels.index_select(0, counted)), {h.index_select(0, counted), w}, dy);
      EXPECT_NEAR(all.y.item<double>(), few.y.item<double>(), 4 * kUnit32 * few.y.item<double>());
      // The same numbers are multiplied in other shapes: of either side the sums over 40 columns or
      // R rows are off by as many roundings of their terms' sizes, and the result by its own. No
      // entry of a row's gradient by the logits is above dy / counted, and their sum is below twice
      // that.
      const double row = 2 * 0.7 / double(counted.numel());
      const auto most = [](const Tensor& x) { return f64(x).abs().max().item<double>(); };
      expect_close(all.grads[0].index_select(0, counted), few.grads[0],
                   2 * (f64(few.grads[0]).abs() * unit(type) + 40 * kUnit32 * row * most(w)));
      expect_close(
          all.grads[1], few.grads[1],
          2 * (f64(few.grads[1]).abs() * unit(type) + double(R * R) * kUnit32 * row * most(h)));
      EXPECT_TRUE((all.grads[0].masked_select(some.unsqueeze(1)) == 0).all().item<bool>());
    }
  }
}

TEST(CrossEntropy, IsZeroWhereNoLabelCounts) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor h = at::randn({5, 16}).to(type), w = at::randn({40, 16}).to(type);
    const Tensor labels = at::full({5}, kIgnoredLabel, at::kLong);
    EXPECT_EQ(cross_entropy(h, {w}, labels).item<float>(), 0.0F);
    const Outcome none = run(head_op(labels), {h, w}, at::scalar_tensor(1.0));
    for (const Tensor& gradient : none.grads) EXPECT_TRUE((gradient == 0).all().item<bool>());
  }
}

TEST(CrossEntropy, ANanShows) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Tensor h = at::randn({5, 16}).to(type), w = at::randn({40, 16}).to(type);
    const Tensor labels = draw_labels(5, 40);
    w[17][3] = NAN;
    EXPECT_TRUE(has_nan(cross_entropy(h, {w}, labels)));
    const Outcome bad = run(head_op(labels), {h, w}, at::scalar_tensor(1.0));
    EXPECT_TRUE(at::isnan(bad.grads[0]).any(1).all().item<bool>());
  }
}

struct Words {
  Tensor tokens, positions;
};

Op embedding_op(const Words& words) {
  return {[=](const Tensors& x, const Sums& sums) {
            return embedding(words.tokens, weight_at(x, sums, 0), weight_at(x, sums, 1),
                             words.positions);
          },
          [=](const Tensors& x) {
            return reference::embedding(words.tokens, x[0], x[1], words.positions);
          }};
}

// Gradients are sums over the B T uses at most.
Bounds embedding_bounds(const Words& words, const Tensors& inputs, const Tensor& dy) {
  const Tensor y =
      reference::embedding(words.tokens, f64(inputs[0]), f64(inputs[1]), words.positions);
  const Tensor uses = f64(dy).abs() * (double(words.tokens.numel()) * kUnit32);
  const Tensor dwte = at::zeros(inputs[0].sizes(), at::kDouble)
                          .index_add_(0, words.tokens.view({-1}), uses.view({-1, dy.size(2)}));
  const Tensor usual = at::arange(dy.size(1)).expand(words.tokens.sizes());
  const Tensor places = words.positions.defined() ? words.positions : usual;
  const Tensor dwpe = at::zeros(inputs[1].sizes(), at::kDouble)
                          .index_add_(0, places.reshape({-1}), uses.view({-1, dy.size(2)}));
  return {y.abs() * kUnit32, {dwte, dwpe}};
}

TEST(Embedding, ForwardAndGradientsMatchDouble) {
  Random random(8);
  for (int trial = 0; trial < 12; ++trial) {
    const auto type = trial % 2 == 0 ? at::kFloat : at::kBFloat16;
    const int64_t B = random.upto(4), T = random.upto(40), C = random.upto(40), V = random.upto(60);
    Words words{at::randint(0, V, {B, T}, at::kLong), {}};
    if (trial % 3 == 1) words.positions = at::randint(0, T + 7, {B, T}, at::kLong);
    if (trial % 3 == 2) words.positions = (at::arange(T) + 5).expand({B, T});
    const Tensors inputs = {at::randn({V, C}).to(type), at::randn({T + 7, C}).to(type)};
    const Tensor dy = at::randn({B, T, C});
    check(embedding_op(words), inputs, dy, 0, embedding_bounds(words, inputs, dy));
  }
}

TEST(Embedding, NeedsNoPositions) {
  at::manual_seed(12);
  const Tensor tokens = at::randint(0, 9, {2, 6}, at::kLong), dy = at::randn({2, 6, 5});
  const Op alone{
      [&](const Tensors& x, const Sums& sums) { return embedding(tokens, weight_at(x, sums, 0)); },
      [&](const Tensors& x) { return at::embedding(x[0], tokens); }};
  const Tensors inputs = {at::randn({9, 5})};
  const Tensor uses = f64(dy).abs().view({-1, 5}) * (12 * kUnit32);
  const Tensor dwte = at::zeros({9, 5}, at::kDouble).index_add_(0, tokens.view({-1}), uses);
  check(alone, inputs, dy, 0, {at::zeros({2, 6, 5}, at::kDouble), {dwte}});
}

// Each of the two goes where its own weight says.
TEST(Embedding, OneWeightMayHaveASumAndTheOtherNot) {
  at::manual_seed(9);
  const Words words{at::randint(0, 5, {3, 4}, at::kLong), at::randint(0, 8, {3, 4}, at::kLong)};
  const Tensors inputs = {at::randn({5, 6}), at::randn({8, 6})};
  const Tensor dy = at::randn({3, 4, 6});
  const Outcome plain = run(embedding_op(words), inputs, dy);
  for (const size_t i : {0, 1}) {
    GradientSum sum{at::zeros(inputs[i].sizes())};
    Sums sums(2);
    sums[i] = &sum;
    const Outcome mixed = run(embedding_op(words), inputs, dy, sums);
    expect_same_bits(sum.sum, plain.grads[i]);
    EXPECT_FALSE(mixed.grads[i].defined());
    ASSERT_TRUE(mixed.grads[1 - i].defined()) << "input " << 1 - i;
    expect_same_bits(mixed.grads[1 - i], plain.grads[1 - i]);
  }
}

// With rows instead of a dense sum, those that were looked up get the bits that a dense one would,
// micro-batch by micro-batch, and nothing is left of an earlier step.
TEST(Embedding, AddsRowsWhereItsWeightHasRows) {
  Random random(11);
  for (const int64_t C : {1, 7, 33}) {
    const int64_t V = 40;
    const Tensors inputs = {at::randn({V, C}), at::randn({30, C})};
    GradientSum of_wte;
    of_wte.rows = std::make_unique<RowSums>(V);
    for (int step = 0; step < 3; ++step) {
      of_wte.rows->forget();
      Tensor expected = at::zeros({V, C});
      const Tensor start = at::randn({V, C}), matrix = start.clone();
      for (int batch = 0; batch < 3; ++batch) {
        const int64_t B = random.upto(3), T = random.upto(20);
        const Words words{at::randint(0, V, {B, T}, at::kLong), {}};
        const Tensor dy = at::randn({B, T, C});
        const Outcome plain = run(embedding_op(words), inputs, dy);
        const Outcome rows = run(embedding_op(words), inputs, dy, {&of_wte, nullptr});
        EXPECT_FALSE(rows.grads[0].defined());
        expect_same_bits(rows.grads[1], plain.grads[1]);
        expected = expected + plain.grads[0];
      }
      of_wte.rows->add_to(matrix);
      expect_same_bits(matrix, start + expected);
    }
  }
}

// The token embedding as the head's weight too: what the head borrows comes back before the
// embedding adds to it.
TEST(Embedding, MayShareItsWeightWithTheHead) {
  at::manual_seed(10);
  const Words words{at::randint(0, 30, {2, 9}, at::kLong), {}};
  const Tensor labels = at::randint(0, 30, {2, 9}, at::kLong), one = at::scalar_tensor(1.0);
  const Tensor wte = at::randn({30, 8}).requires_grad_(true);
  const Tensor wpe = at::randn({9, 8}).requires_grad_(true);
  const auto loss = [&](GradientSum* sum) {
    const Tensor x = embedding(words.tokens, {wte, sum}, {wpe, nullptr});
    return cross_entropy(ops::gelu(x), {wte, sum}, labels);
  };
  const auto plain = torch::autograd::grad({loss(nullptr)}, {wte}, {one});
  GradientSum sum{at::full({30, 8}, NAN)};
  torch::autograd::grad({loss(&sum)}, {wte, wpe}, {one}, false, false, true);
  expect_same_bits(sum.sum, plain[0]);
}

}  // namespace
}  // namespace gigagpt::ops
