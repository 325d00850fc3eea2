// Embedding, layer norm, GELU, dropout and the loss against double precision.
#include <torch/csrc/autograd/autograd.h>

#include "ops/dropout.h"
#include "ops/ops.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

Weight leaf(const Tensor& value) {
  const Tensor x = value.clone().requires_grad_(true);
  return {x, at::zeros(x.sizes(), at::kFloat)};
}

TEST(LayerNorm, ForwardAndGradientsMatchDouble) {
  at::manual_seed(1);
  for (const int64_t C : {1, 5, 64, 129}) {
    const Tensor x = (at::randn({2, 7, C}) * 3 + 1).requires_grad_(true);
    const Tensor dy = at::randn({2, 7, C});
    const Affine w{leaf(at::randn({C})), leaf(at::randn({C}))};
    const Tensor x64 = f64(x).requires_grad_(true);
    const Tensor g64 = f64(w.weight.value).requires_grad_(true);
    const Tensor b64 = f64(w.bias.value).requires_grad_(true);
    const Tensor mean = x64.mean(-1, true);
    const Tensor y64 = (x64 - mean) / (x64.var(-1, false, true) + 1e-5).sqrt() * g64 + b64;
    const auto truth = torch::autograd::grad({y64}, {x64, g64, b64}, {f64(dy)});
    const Tensor y = ops::layer_norm(x, w);
    const auto grads = torch::autograd::grad({y}, {x, w.weight.value}, {dy}, false, false, true);
    // Means over C or sums over 14 rows of O(1) numbers; rstd is at most 1/sqrt(eps) = 316 when all
    // of a row is equal (C = 1), else O(1).
    const double unit = 64 * double(C + 14) * kUnit32 * (C == 1 ? 316 : 1);
    expect_close(y, y64, unit * (1 + y64.abs().max().item<double>()));
    expect_close(grads[0], truth[0], unit * (1 + truth[0].abs().max().item<double>()));
    expect_close(w.weight.grad, truth[1], unit * (1 + truth[1].abs().max().item<double>()));
    expect_close(w.bias.grad, truth[2], unit * (1 + truth[2].abs().max().item<double>()));
  }
}

TEST(Embedding, LooksUpRowsFromAPosition) {
  const Weight wte = leaf(at::randn({10, 4})), wpe = leaf(at::randn({6, 4}));
  const Tensor tokens = at::tensor({3, 9, 3, 0}, at::kLong).view({2, 2});
  const Tensor y = ops::embedding(tokens, wte, wpe, 3);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t t = 0; t < 2; ++t) {
      const int64_t token = tokens[b][t].item<int64_t>();
      expect_same_bits(y[b][t], wte.value[token] + wpe.value[3 + t]);
    }
  }
}

TEST(Embedding, GradientsAreTheSumsOverUses) {
  at::manual_seed(2);
  const Weight wte = leaf(at::randn({5, 3})), wpe = leaf(at::randn({9, 3}));
  const Tensor tokens = at::randint(0, 5, {4, 7}, at::kLong);
  const Tensor dy = at::randn({4, 7, 3});
  const Tensor wte64 = f64(wte.value).requires_grad_(true);
  const Tensor wpe64 = f64(wpe.value).requires_grad_(true);
  const Tensor y64 = at::embedding(wte64, tokens) + wpe64.narrow(0, 1, 7);
  const auto truth = torch::autograd::grad({y64}, {wte64, wpe64}, {f64(dy)});
  const Tensor y = ops::embedding(tokens, wte, wpe, 1);
  torch::autograd::grad({y}, {wte.value, wpe.value}, {dy}, false, false, true);
  // At most 28 terms of magnitude below 5 a sum.
  expect_close(wte.grad, truth[0], 28 * 28 * 5 * kUnit32);
  expect_close(wpe.grad, truth[1], 28 * 28 * 5 * kUnit32);
}

TEST(Embedding, AccumulatorsGetTheBitsThatAutogradWouldCarry) {
  at::manual_seed(3);
  const Weight wte = leaf(at::randn({5, 3})), wpe = leaf(at::randn({4, 3}));
  wte.grad.copy_(at::randn({5, 3}));
  const Tensor before = wte.grad.clone();
  const Tensor tokens = at::randint(0, 5, {6, 4}, at::kLong), dy = at::randn({6, 4, 3});
  const auto plain = torch::autograd::grad(
      {ops::embedding(tokens, {wte.value, {}}, {wpe.value, {}})}, {wte.value, wpe.value}, {dy});
  torch::autograd::grad({ops::embedding(tokens, wte, wpe)}, {wte.value, wpe.value}, {dy}, false,
                        false, true);
  expect_same_bits(wte.grad, before + plain[0]);
  expect_same_bits(wpe.grad, plain[1]);
}

TEST(Gelu, IsTheExactForm) {
  const Tensor x = at::linspace(-6, 6, 1001);
  const Tensor truth = f64(x) * 0.5 * (1 + at::erf(f64(x) / std::sqrt(2.0)));
  expect_close(ops::gelu(x), truth, 16 * kUnit32);
  // The tanh approximation is off by up to 5e-4 near 2: this must not be it.
  const Tensor two = at::full({1}, 2.0);
  EXPECT_NEAR(ops::gelu(two).item<double>(), 2 * 0.9772498680518208, 1e-6);
}

TEST(Dropout, DropsTheRightShareAndKeepsTheMean) {
  const int64_t n = 100000;
  const Tensor y = ops::dropout(at::ones({n}), 0.3, 42);
  const double dropped = double((y == 0).sum().item<int64_t>());
  // Binomial: 5 standard deviations.
  EXPECT_NEAR(dropped, 0.3 * n, 5 * std::sqrt(0.3 * 0.7 * n));
  expect_close(y.masked_select(y != 0), at::ones({int64_t(n - dropped)}) / 0.7, 2 * kUnit32);
}

TEST(Dropout, IsAFunctionOfTheKey) {
  const Tensor x = at::randn({1000});
  expect_same_bits(ops::dropout(x, 0.5, 7), ops::dropout(x, 0.5, 7));
  EXPECT_FALSE(at::equal(ops::dropout(x, 0.5, 7), ops::dropout(x, 0.5, 8)));
  expect_same_bits(ops::dropout(x, 0.0, 7), x);
}

TEST(Dropout, PartDropsWhatTheWholeWould) {
  const Tensor x = at::randn({1001});
  const Tensor whole = drop(x, 0.5, 3);
  for (const int64_t first : {0, 1, 4, 7, 998}) {
    expect_same_bits(drop(x.narrow(0, first, 1001 - first), 0.5, 3, first),
                     whole.narrow(0, first, 1001 - first));
  }
}

TEST(Dropout, GradientPassesWhereValuesDid) {
  const Tensor x = at::ones({999}).requires_grad_(true);
  const Tensor y = ops::dropout(x, 0.4, 11);
  const auto grads = torch::autograd::grad({y}, {x}, {at::ones({999})});
  expect_same_bits(grads[0], y.detach());
}

TEST(CrossEntropy, MatchesTheFormula) {
  at::manual_seed(4);
  const Tensor logits = (at::randn({6, 11}) * 4).requires_grad_(true);
  const Tensor labels = at::randint(0, 11, {6}, at::kLong);
  const Tensor logits64 = f64(logits).requires_grad_(true);
  const Tensor picked = at::log_softmax(logits64, -1).gather(1, labels.unsqueeze(1));
  const Tensor loss64 = -picked.mean();
  const Tensor loss = cross_entropy(logits, labels);
  expect_close(loss, loss64, 64 * 11 * kUnit32 * loss64.item<double>());
  const auto grads = torch::autograd::grad({loss}, {logits}, {at::full({}, 0.25)});
  const auto truth = torch::autograd::grad({loss64}, {logits64}, {at::full({}, 0.25, at::kDouble)});
  expect_close(grads[0], truth[0], 64 * 11 * kUnit32);
}

}  // namespace
}  // namespace gigagpt::ops
