// Weights with a multiplier beside the same op with what it makes multiplied by autograd.
#include "ops/ops.h"
#include "ops/row_sums.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

// Something made of activations and weights, whose multipliers are given.
using Make = std::function<Tensor(const Tensors& inputs, const Sums& sums, double multiplier)>;

// The output and all gradients, as accumulators and autograd have them.
Outcome outcome(const Make& make, const Tensors& inputs, const Tensor& dy, double multiplier,
                double after) {
  const auto forward = [&](const Tensors& x, const Sums& sums) {
    const Tensor y = make(x, sums, multiplier);
    return after == 1 ? y : y.mul(after);
  };
  return run({forward, {}}, inputs, dy);
}

Weight with(const Weight& weight, double multiplier) {
  return {weight.value, weight.grad, multiplier};
}

// A power of two changes no rounding, so that the bits are the same; another factor is one rounding
// of the type more on either side, of terms that are as large as the result or, where sums cancel,
// `slack` times as large.
void check_multiplier(const Make& make, const Tensors& inputs, const Tensor& dy) {
  const auto same = [&](double factor, auto compare) {
    const Outcome inside = outcome(make, inputs, dy, factor, 1),
                  outside = outcome(make, inputs, dy, 1, factor);
    compare(inside.y, outside.y);
    ASSERT_EQ(inside.grads.size(), outside.grads.size());
    for (size_t i = 0; i < inside.grads.size(); ++i) compare(inside.grads[i], outside.grads[i]);
  };
  same(0.25, [](const Tensor& a, const Tensor& b) { expect_same_bits(a, b); });
  same(8, [](const Tensor& a, const Tensor& b) { expect_same_bits(a, b); });
  same(3.3, [&](const Tensor& a, const Tensor& b) {
    const double slack = 8 * unit(inputs.back().scalar_type());
    EXPECT_TRUE(at::allclose(f64(a), f64(b), slack, slack * f64(b).abs().max().item<double>()));
  });
}

TEST(Multiplier, LinearLayersAndTheirBias) {
  at::manual_seed(1);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensors inputs = {at::randn({3, 7, 33}).to(type), at::randn({50}),
                            at::randn({50, 33}).to(type)};
    const Make make = [](const Tensors& x, const Sums& sums, double multiplier) {
      return linear(x[0], {with(weight_at(x, sums, 2), multiplier), weight_at(x, sums, 1)},
                    at::kFloat);
    };
    check_multiplier(make, inputs, at::randn({3, 7, 50}));
  }
}

// The residual is not multiplied, so it is taken off what is.
TEST(Multiplier, TheEndOfABranchAloneNotTheResidual) {
  at::manual_seed(2);
  const Tensor residual = at::randn({3, 7, 50});
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const double p : {0.0, 0.3}) {
      for (const bool gelu : {false, true}) {
        const Tensors inputs = {at::randn({3, 7, 33}).to(type), at::randn({50}),
                                at::randn({50, 33}).to(type)};
        const Make make = [=](const Tensors& x, const Sums& sums, double multiplier) {
          const Affine w{with(weight_at(x, sums, 2), multiplier), weight_at(x, sums, 1)};
          const Tensor zero = at::zeros_like(residual);
          return gelu ? add_gelu_linear(zero, x[0], w, GeluForm::kErf, p, 5)
                      : add_linear(zero, x[0], w, p, 5);
        };
        check_multiplier(make, inputs, at::randn({3, 7, 50}));
        const Affine w{{inputs[2], nullptr, 8}, {inputs[1]}}, plain{{inputs[2]}, {inputs[1]}};
        expect_same_bits(
            add_linear(residual, inputs[0], w, p, 5),
            add_linear(at::zeros_like(residual), inputs[0], plain, p, 5) * 8 + residual);
      }
    }
  }
}

TEST(Multiplier, EmbeddingsOfTokensAndPositions) {
  at::manual_seed(3);
  const Tensor tokens = at::randint(0, 11, {2, 9}, at::kLong);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensors inputs = {at::randn({11, 20}).to(type), at::randn({12, 20}).to(type)};
    const Make make = [&](const Tensors& x, const Sums& sums, double multiplier) {
      return embedding(tokens, with(weight_at(x, sums, 0), multiplier),
                       with(weight_at(x, sums, 1), multiplier));
    };
    check_multiplier(make, inputs, at::randn({2, 9, 20}));
  }
}

TEST(Multiplier, EmbeddingsWithFactorsOfTheirOwn) {
  at::manual_seed(4);
  const Tensor tokens = at::randint(0, 11, {2, 9}, at::kLong);
  const Tensor wte = at::randn({11, 20}), wpe = at::randn({12, 20});
  expect_same_bits(embedding(tokens, {wte, nullptr, 4}, {wpe, nullptr, 0.5}),
                   embedding(tokens, {wte * 4}, {wpe * 0.5}));
}

// The loss of multiplied logits, which it is not linear in: as with the product's other side
// multiplied.
TEST(Multiplier, LogitsOfTheLossAsThoseOfThePrediction) {
  at::manual_seed(5);
  const Tensor labels = at::randint(0, 40, {30}, at::kLong);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const double factor : {0.25, 3.3}) {
      const Tensors inputs = {at::randn({30, 16}).to(type), at::randn({40, 16}).to(type)};
      const auto inside = [&](const Tensors& x, const Sums& sums) {
        return cross_entropy(x[0], with(weight_at(x, sums, 1), factor), labels);
      };
      const auto outside = [&](const Tensors& x, const Sums& sums) {
        return cross_entropy(x[0].mul(factor), weight_at(x, sums, 1), labels);
      };
      const Outcome a = run({inside, {}}, inputs, at::ones({})),
                    b = run({outside, {}}, inputs, at::ones({}));
      expect_same_bits(a.y, b.y);
      for (size_t i = 0; i < 2; ++i) expect_same_bits(a.grads[i], b.grads[i]);
      const Tensor logits = linear(inputs[0], {{inputs[1], nullptr, factor}, {}}, at::kFloat);
      // Rounded to the type, multiplied numbers are off by a unit of it relatively to the terms.
      const double size =
          at::matmul(f64(inputs[0]).abs(), f64(inputs[1]).abs().t()).max().item<double>();
      const Tensor picked = at::log_softmax(f64(logits), -1).gather(1, labels.unsqueeze(1));
      EXPECT_NEAR(a.y.item<double>(), -picked.mean().item<double>(),
                  2 * factor * size * (unit(type) + 32 * kUnit32));
    }
  }
}

TEST(Multiplier, WhoeverAsksIsToldHowLargeTheOutputIs) {
  at::manual_seed(6);
  const Tensor x = at::randn({5, 16}), w = at::randn({20, 16}), b = at::randn({20}),
               residual = at::randn({5, 20}) * 100;
  double size = -1;
  const Affine watched{{w, nullptr, 0.5, &size}, {b}};
  const double expected = ((at::matmul(x, w.t()) + b) * 0.5).abs().mean().item<double>();
  linear(x, watched);
  EXPECT_NEAR(size, expected, 1e-5 * expected);
  size = -1;
  const Tensor y = add_linear(residual, x, watched);
  EXPECT_NEAR(size, expected, 1e-5 * expected);
  expect_same_bits(y, add_linear(residual, x, {{w, nullptr, 0.5}, {b}}));
  const Tensor tokens = at::randint(0, 20, {2, 3}, at::kLong);
  const Tensor rows = embedding(tokens, {w, nullptr, 2, &size}, {});
  EXPECT_NEAR(size, rows.abs().mean().item<double>(), 1e-5 * size);
}

}  // namespace
}  // namespace gigagpt::ops
