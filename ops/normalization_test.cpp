// Layer norm, GELU and dropout against double precision.
#include <cmath>

#include "base/random.h"
#include "ops/gelu_testing.h"
#include "ops/gemm.h"
#include "ops/kernels/rows.h"
#include "ops/ops.h"
#include "ops/reference_testing.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

constexpr double kEps = 1e-5;

Op layer_norm_op(at::ScalarType out) {
  return {[out](const Tensors& x, const Sums& sums) {
            return layer_norm(x[0], {weight_at(x, sums, 1), weight_at(x, sums, 2)}, out, kEps);
          },
          [](const Tensors& x) {
            return reference::layer_norm(x[0], x[1], x.size() > 2 ? x[2] : Tensor(), kEps);
          }};
}

Tensor row_mean(const Tensor& x) {
  return x.mean(-1, true);
}

Op rms_norm_op(at::ScalarType out) {
  return {[out](const Tensors& x, const Sums& sums) {
            return rms_norm(x[0], {weight_at(x, sums, 1), {}}, out, kEps);
          },
          [](const Tensors& x) { return reference::rms_norm(x[0], x[1], kEps); }};
}

// Of x [R, C]: the mean is off by C u mean|x|, and with it what is centred; the variance by its own
// sum and what it is made of; half of that, relatively, is the error of 1 / deviation.
// Without a mean x is exact, and g has none either.
Bounds norm_bounds(const Tensors& inputs, const Tensor& dy32, bool centred = true) {
  const Tensor x = f64(inputs[0]), w = f64(inputs[1]), dy = f64(dy32);
  const double C = double(x.size(1)), R = double(x.size(0)), u = kUnit32;
  const Tensor mean = centred ? row_mean(x) : at::zeros({}, at::kDouble), c = x - mean;
  const Tensor variance = row_mean(c.square()) + kEps, s = variance.sqrt();
  const Tensor c_error =
      centred ? c.abs() * u + row_mean(x.abs()) * ((C + 1) * u) : at::zeros_like(c);
  const Tensor variance_error = row_mean(c.square()) * ((C + 3) * u) +
                                row_mean(c.abs() * c_error) * 2 + row_mean(c_error.square());
  const Tensor rstd_error = variance_error / variance / 2 + 4 * u;
  const Tensor n = c / s, n_error = c_error / s + n.abs() * (rstd_error + 2 * u);
  // dx = (g - mean(g) - n mean(g n)) / s
  const Tensor g = dy * w, gn_mean = row_mean(g * n);
  const Tensor g_mean = centred ? row_mean(g) : at::zeros({}, at::kDouble);
  const Tensor gn_error =
      row_mean((g * n).abs()) * ((C + 4) * u) + row_mean(g.abs() * n_error) + 1e-38;
  const Tensor terms_error = (g.abs() + g_mean.abs() + (n * gn_mean).abs()) * (4 * u) +
                             row_mean(g.abs()) * ((C + 2) * u) + n.abs() * gn_error +
                             n_error * gn_mean.abs();
  const Tensor dx = (g - g_mean - n * gn_mean) / s;
  const Tensor b = inputs.size() > 2 ? f64(inputs[2]) : at::zeros_like(w);
  Bounds bounds{w.abs() * n_error + ((n * w).abs() + b.abs()) * (2 * u),
                {terms_error / s + dx.abs() * (rstd_error + u),
                 (dy.abs() * n_error).sum(0) + (dy * n).abs().sum(0) * ((R + 1) * u)}};
  if (inputs.size() > 2) bounds.grads.push_back(dy.abs().sum(0) * ((R + 1) * u));
  return bounds;
}

void check_layer_norm(int64_t R, int64_t C, bool bias, at::ScalarType out) {
  SCOPED_TRACE(testing::Message() << "R " << R << " C " << C << " bias " << bias << " " << out);
  Tensors inputs = {at::randn({R, C}) * 3 + at::randn({R, 1}) * 5, at::randn({C})};
  if (bias) inputs.push_back(at::randn({C}));
  const Tensor dy = at::randn({R, C}).to(out);
  check(layer_norm_op(out), inputs, dy, 1, norm_bounds(inputs, dy));
}

TEST(LayerNorm, ForwardAndGradientsMatchDouble) {
  Random random(1);
  for (const int64_t C : {1, 2, 5, 16, 31, 32, 64, 129, 768, 1001}) {
    for (const auto out : {at::kFloat, at::kBFloat16}) {
      check_layer_norm(random.upto(40), C, random.coin(), out);
    }
  }
  for (const int threads : {1, 3}) {
    const ThreadCount count(threads);
    check_layer_norm(1, 4096, true, at::kFloat);
    check_layer_norm(1000, 20, true, at::kBFloat16);
  }
}

// Rows far from zero: what cancels is the mean, and its error counts.
TEST(LayerNorm, RowsFarFromZeroMatchDouble) {
  at::manual_seed(2);
  const Tensors inputs = {at::randn({6, 100}) + 1000, at::randn({100}), at::randn({100})};
  const Tensor dy = at::randn({6, 100});
  check(layer_norm_op(at::kFloat), inputs, dy, 1, norm_bounds(inputs, dy));
}

TEST(RmsNorm, ForwardAndGradientsMatchDouble) {
  Random random(7);
  for (const int64_t C : {1, 2, 5, 16, 31, 64, 129, 768, 1001}) {
    for (const auto out : {at::kFloat, at::kBFloat16}) {
      const int64_t R = random.upto(40);
      const Tensors inputs = {at::randn({R, C}) * 3 + at::randn({R, 1}) * 5, at::randn({C})};
      const Tensor dy = at::randn({R, C}).to(out);
      check(rms_norm_op(out), inputs, dy, 1, norm_bounds(inputs, dy, /*centred=*/false));
    }
  }
}

// What comes back on the two ways is added.
TEST(RmsNorm, BranchesHaveTheGradientsOfBothWays) {
  at::manual_seed(8);
  const Tensor x = at::randn({5, 20}).requires_grad_(true);
  const Affine w{{at::randn({20}), nullptr}, {}};
  const Tensor along = at::randn({5, 20}), through = at::randn({5, 20});
  const Branch both = rms_branch(x, w, at::kFloat);
  const Tensor sum = torch::autograd::grad({both.residual, both.normal}, {x}, {along, through})[0];
  const Tensor alone = torch::autograd::grad({rms_norm(x, w)}, {x}, {through})[0];
  expect_same_bits(both.normal, rms_norm(x, w));
  expect_close(sum, f64(alone) + f64(along), (f64(alone).abs() + f64(along).abs()) * kUnit32);
}

TEST(LayerNorm, ANanStaysInItsRow) {
  Tensor x = at::randn({3, 50});
  x[1][7] = NAN;
  const Affine w{{at::ones({50}), nullptr}, {at::zeros({50}), nullptr}};
  for (const auto out : {at::kFloat, at::kBFloat16}) {
    const Tensor y = layer_norm(x, w, out);
    EXPECT_TRUE(at::isnan(y[1]).all().item<bool>());
    EXPECT_FALSE(has_nan(y[0]) || has_nan(y[2]));
  }
}

// exp(scale (x - max)): the exponent is rounded four times, with the constant that makes it one of
// two; far below it is zero.
TEST(Exponentials, MatchDouble) {
  at::manual_seed(3);
  for (const int64_t n : {1, 5, 16, 40, 4001}) {
    const Tensor x = at::randn({n}) * 30, x64 = f64(x), y = x.clone();
    const Tensor exponents = (x64 - x64.max()) * double(0.7F), truth = exponents.exp();
    const float sum =
        kernels::row_kernels<float>().exponentials(y.data_ptr<float>(), size_t(n), 0.7F);
    const Tensor error = truth * (exponents.abs() * (4 * kUnit32) + kExp);
    expect_close(y, truth, error + 1.2e-38);
    expect_close(at::scalar_tensor(sum), truth.sum(),
                 error.sum() + truth.sum() * double(n) * kUnit32);
    EXPECT_TRUE((y.masked_select(exponents < -88) == 0).all().item<bool>());
  }
}

// The kernels' erf is off by 1.5e-7 (Abramowitz and Stegun 7.1.26), Phi by half of that; a
// polynomial with coefficients up to 1.5, the exponential and the sum add 16 roundings at most, and
// x phi(x) <= 1/4 with |x|^3 phi(x) < 1/2 another eight.
// With t = 2 |u|, the tanh form has the exponential off by kExp and five roundings of t, and the
// tail e^-t <= 1/2 with t e^-t < 0.4 makes that kExp / 2 + 2 roundings, and six for what is around
// it; the slope x s (1 - s) 2 u' < 3 t e^-t <= 1.2, with 3 t^2 e^-t < 1.7, is off by 1.2 kExp and
// 9 + 10 roundings more.
Bounds gelu_bounds(const Tensor& x, const Tensor& dy, GeluForm form) {
  if (form == GeluForm::kTanh) {
    const double tail = kExp / 2 + 8 * kUnit32;
    return {f64(x).abs() * tail, {f64(dy).abs() * (tail + 1.2 * kExp + 19 * kUnit32)}};
  }
  const double phi = 0.75e-7 + 16 * kUnit32;
  return {f64(x).abs() * phi, {f64(dy).abs() * (phi + 8 * kUnit32)}};
}

Op gelu_op(GeluForm form) {
  return {[=](const Tensors& x, const Sums& /*none*/) { return ops::gelu(x[0], form); },
          [=](const Tensors& x) { return reference::gelu(x[0], form); }};
}

constexpr std::array kForms = {GeluForm::kErf, GeluForm::kTanh};

TEST(Gelu, ForwardAndGradientsMatchDouble) {
  at::manual_seed(3);
  const auto check_at = [](const Tensor& x, const Tensor& dy) {
    for (const GeluForm form : kForms) {
      check(gelu_op(form), {x}, dy, 1, gelu_bounds(x, dy, form));
    }
  };
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t n : {1, 7, 16, 33, 10001}) {
      check_at((at::randn({n, 2}) * 3).to(type), at::randn({n, 2}).to(type));
    }
    check_at(at::linspace(-15, 15, 3001).to(type), at::ones({3001}, type));
  }
}

// The backward pass can make the result again.
TEST(Gelu, IsMadeAgainWithItsBits) {
  at::manual_seed(4);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t n : {1, 33, 10001}) {
      const Tensor x = at::randn({n}).to(type), dy = at::randn({n}).to(type);
      for (const GeluForm form : kForms) {
        const auto [dx, y] = differentiate_gelu(x, dy, form);
        expect_same_bits(y, apply_gelu(x, form));
        expect_same_bits(dx, run(gelu_op(form), {x}, dy).grads[0]);
      }
    }
  }
}

// The tanh approximation is off by up to 5e-4 near 2: one must not be the other.
TEST(Gelu, IsTheFormThatIsMeant) {
  const Tensor two = at::full({1}, 2.0);
  EXPECT_NEAR(ops::gelu(two, GeluForm::kErf).item<double>(), 2 * 0.9772498680518208, 1e-6);
  EXPECT_NEAR(ops::gelu(two, GeluForm::kTanh).item<double>(), 2 * 0.9772988470438683, 1e-6);
}

// Far out the function is 0 or x, and nothing overflows.
TEST(Gelu, FarOutAndNan) {
  const Tensor far = at::tensor({-1e30F, -100.0F, 0.0F, 100.0F, 1e30F});
  for (const GeluForm form : kForms) {
    expect_same_bits(ops::gelu(far, form), at::clamp_min(far, 0));
    const Tensor slope = differentiate_gelu(far, at::ones({5}), form).first;
    expect_close(slope, at::tensor({0.0F, 0.0F, 0.5F, 1.0F, 1.0F}), 2 * kUnit32);
    const Tensor nans = at::full({20}, NAN);
    EXPECT_TRUE(has_nan(ops::gelu(nans, form)));
    EXPECT_TRUE(has_nan(differentiate_gelu(nans, nans, form).first));
  }
}

// The exponential is off by kExp and two roundings of its exponent |x|, the sigmoid and what it
// leaves of 1 by that, a sum, and the last step of a reciprocal: relatively, as both are at most 1.
Bounds silu_bounds(const Tensor& x_any, const Tensor& u_any, const Tensor& dy_any) {
  const Tensor x = f64(x_any), u = f64(u_any), dy = f64(dy_any), s = at::sigmoid(x), rest = 1 - s;
  const Tensor relative = kExp + (x.abs() * 2 + 8) * kUnit32;
  const Tensor slope_error = s * ((1 + (x * rest).abs()) * (relative * 2 + 4 * kUnit32));
  return {(x * s * u).abs() * (relative + 3 * kUnit32),
          {(dy * u).abs() * slope_error, (dy * x * s).abs() * (relative + 3 * kUnit32)}};
}

TEST(SiluTimes, ForwardAndGradientsMatchDouble) {
  at::manual_seed(9);
  const Op op{[](const Tensors& x, const Sums& /*none*/) { return silu_times(x[0], x[1]); },
              [](const Tensors& x) { return reference::silu_times(x[0], x[1]); }};
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t n : {1, 7, 16, 33, 10001}) {
      const Tensor x = (at::randn({n, 2}) * 4).to(type), u = at::randn({n, 2}).to(type);
      const Tensor dy = at::randn({n, 2}).to(type);
      check(op, {x, u}, dy, 2, silu_bounds(x, u, dy));
    }
  }
}

TEST(SiluTimes, FarOutAndNan) {
  const Tensor far = at::tensor({-1e30F, -100.0F, 0.0F, 100.0F, 1e30F}), ones = at::ones({5});
  expect_close(silu_times(far, ones), at::clamp_min(far, 0), far.abs() * (4 * kUnit32) + 1e-30);
  const Tensor nans = at::full({20}, NAN), twenty = at::ones({20});
  EXPECT_TRUE(at::isnan(silu_times(nans, twenty)).all().item<bool>());
  EXPECT_TRUE(at::isnan(silu_times(twenty, nans)).all().item<bool>());
}

Op dropout_op(double p, uint64_t key) {
  return {[=](const Tensors& x, const Sums& /*none*/) { return ops::dropout(x[0], p, key); },
          [=](const Tensors& x) {
            return x[0] * f64(reference::dropout_factors(x[0].sizes(), p, key));
          }};
}

TEST(Dropout, ForwardAndGradientsMatchDouble) {
  Random random(4);
  for (int trial = 0; trial < 20; ++trial) {
    const auto type = trial % 2 == 0 ? at::kFloat : at::kBFloat16;
    const int64_t n = random.upto(trial < 10 ? 100 : 9000);
    const double p = std::vector{0.1, 0.5, 0.9}[size_t(trial % 3)];
    const Tensor x = at::randn({3, n}).to(type), dy = at::randn({3, n}).to(type);
    const uint64_t key = mix(uint64_t(trial), 0x8000000000000000U);
    check(dropout_op(p, key), {x}, dy, 1, {at::zeros({3, n}), {at::zeros({3, n})}});
  }
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
  EXPECT_FALSE(at::equal(ops::dropout(x, 0.5, 7), ops::dropout(x, 0.5, 7 + (uint64_t{1} << 63))));
  EXPECT_TRUE(ops::dropout(x, 0.0, 7).is_same(x));
}

TEST(Dropout, MultipliesWithTheWrittenOutFactors) {
  at::manual_seed(5);
  for (const double p : {1e-9, 0.1, 0.5, 0.999}) {
    for (const int64_t n : {1, 3, 64, 1001, 20003}) {
      for (const auto type : {at::kFloat, at::kBFloat16}) {
        const Tensor x = at::randn({n}).to(type), factors = reference::dropout_factors({n}, p, 99);
        expect_same_bits(drop(x, p, 99), (x.to(at::kFloat) * factors).to(type));
      }
    }
  }
}

// The elements of x as those from `first` on of a whole.
Tensor drop_part(const Tensor& x, uint64_t first) {
  const Tensor y = at::empty_like(x);
  kernels::row_kernels<float>().dropout(x.data_ptr<float>(), size_t(x.numel()), 0.5, 3, first,
                                        y.data_ptr<float>());
  return y;
}

// Also where the counter does not fit in 32 bits.
TEST(Dropout, PartDropsWhatTheWholeWould) {
  const Tensor x = at::randn({1001}), whole = drop(x, 0.5, 3);
  for (const int64_t first : {0, 1, 4, 7, 62, 63, 65, 998, 1000}) {
    expect_same_bits(drop_part(x.narrow(0, first, 1001 - first), uint64_t(first)),
                     whole.narrow(0, first, 1001 - first));
  }
  const uint64_t far = (uint64_t{1} << 34) - 70;
  const Tensor y = drop_part(at::ones({140}), far);
  for (uint64_t i = 0; i < 140; ++i) {
    const bool kept = philox(3, (far + i) / 4)[(far + i) % 4] >= 0x80000000U;
    EXPECT_EQ(y[int64_t(i)].item<float>(), kept ? 2.0F : 0.0F) << i;
  }
}

TEST(AsType, RoundsToNearestEven) {
  at::manual_seed(6);
  Tensor x = at::randn({3, 30001}) * at::exp(at::randn({3, 30001}) * 8);
  x.view({-1}).narrow(0, 0, 5).copy_(
      at::tensor({1.00390625F, 1.01171875F, -INFINITY, 3.4e38F, -0.0F}));
  x = at::where(x.abs() < 0x1p-126, at::zeros({}), x);  // instructions may take these for zero
  expect_same_bits(as_type(x, at::kBFloat16), x.to(at::kBFloat16));
  expect_same_bits(as_type(x.t(), at::kBFloat16), x.t().to(at::kBFloat16));
  expect_same_bits(as_type(x.to(at::kBFloat16), at::kFloat), x.to(at::kBFloat16).to(at::kFloat));
  EXPECT_TRUE(as_type(x, at::kFloat).is_same(x));
}

TEST(AsType, ANanOfAnyPayloadStaysOne) {
  for (const int32_t bits : {0x7fc00000, -1, 0x7f800001, 0x7fffffff, -0x7fffff}) {
    const Tensor x = at::full({70}, bits, at::kInt).view(at::kFloat);
    EXPECT_TRUE(at::isnan(as_type(x, at::kBFloat16)).all().item<bool>()) << bits;
  }
}

}  // namespace
}  // namespace gigagpt::ops
