// Products: gemm and linear layers against double precision.
#include "ops/gelu_testing.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/reference_testing.h"
#include "ops/testing.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

// Leaves products of bf16 matrices to oneDNN, as long as this lives.
class WithoutOwnGemm {
 public:
  WithoutOwnGemm() { use_own_gemm(false); }
  ~WithoutOwnGemm() { use_own_gemm(true); }
  WithoutOwnGemm(const WithoutOwnGemm&) = delete;
  WithoutOwnGemm& operator=(const WithoutOwnGemm&) = delete;
};

// A matrix [rows, columns] that lies in rows, transposed, or as part of a wider one.
Tensor draw_matrix(Random& random, int64_t rows, int64_t columns, at::ScalarType type) {
  switch (random.upto(3)) {
    case 1:
      return at::randn({rows, columns}).to(type);
    case 2:
      return at::randn({columns, rows}).to(type).t();
    default:
      return at::randn({rows, columns + 5}).to(type).narrow(1, 2, columns);
  }
}

// The truth of gemm, and the error before rounding: each of the terms is one more in the sum.
struct Product {
  Tensor value, error;
};
Product product64(const Tensor& a, const Tensor& b, const GemmExtras& extras,
                  const Tensor& before) {
  Product p{at::matmul(f64(a), f64(b)), product_error(a, b)};
  Tensor size = at::matmul(f64(a).abs(), f64(b).abs());
  for (const Tensor& term : {extras.bias, extras.residual, extras.add ? before : Tensor()}) {
    if (!term.defined()) continue;
    p.value = p.value + f64(term);
    size = size + f64(term).abs();
  }
  return {p.value, size * (double(a.size(-1) + 3) * kUnit32)};
}

// c = a b once as it comes, once with oneDNN, twice each: right, and the same bits.
void check_gemm(const Tensor& a, const Tensor& b, const Tensor& c, const GemmExtras& extras = {}) {
  SCOPED_TRACE(testing::Message() << "a " << a.sizes() << a.strides() << " b " << b.sizes()
                                  << b.strides() << " c " << c.strides() << c.scalar_type()
                                  << " add " << extras.add << " bias " << extras.bias.defined()
                                  << " residual " << extras.residual.defined());
  const Tensor before = c.clone();
  const Product truth = product64(a, b, extras, before);
  const auto twice = [&] {
    c.copy_(before);
    gemm(a, b, c, extras);
    expect_rounded(c, truth.value, truth.error);
    const Tensor once = c.clone();
    c.copy_(before);
    gemm(a, b, c, extras);
    expect_same_bits(c, once);
  };
  twice();
  const WithoutOwnGemm guard;
  twice();
}

// More than 96 rows or 64 columns take more than one tile or panel.
TEST(Gemm, MatchesDoubleOnRandomShapesStridesAndTypes) {
  Random random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const auto type = trial % 3 == 0 ? at::kFloat : at::kBFloat16;
    const int64_t M = random.upto(210), N = random.upto(150);
    const int64_t K = random.upto(130);
    const Tensor a = draw_matrix(random, M, K, type), b = draw_matrix(random, K, N, type);
    const bool rounded = type == at::kBFloat16 && random.coin();
    const Tensor c = draw_matrix(random, M, N, rounded ? type : at::kFloat);
    GemmExtras extras;
    if (random.coin()) extras.bias = at::randn({N});
    if (!rounded && random.coin()) extras.residual = at::randn({M, N});
    if (!rounded && random.coin()) extras.add = true;
    extras.read_late = random.coin();
    check_gemm(a, b, c, extras);
  }
}

// Sums of more than 768 terms are done a stretch at a time.
TEST(Gemm, LongSums) {
  Random random(2);
  for (const int64_t K : {766, 767, 768, 769, 770, 1536, 1538, 2305}) {
    const Tensor a = at::randn({97, K}).to(at::kBFloat16),
                 b = draw_matrix(random, K, 65, at::kBFloat16);
    check_gemm(a, b, at::zeros({97, 65}));
    check_gemm(a.t().contiguous().t(), b, at::zeros({97, 65}, at::kBFloat16));
  }
}

TEST(Gemm, OneRowColumnOrTerm) {
  Random random(2);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [M, K, N] : std::vector<std::array<int64_t, 3>>{
             {1, 1, 1}, {1, 300, 70}, {1, 33, 1}, {70, 33, 1}, {70, 1, 33}, {1, 1, 64}}) {
      for (int layout = 0; layout < 4; ++layout) {
        const Tensor a = draw_matrix(random, M, K, type), b = draw_matrix(random, K, N, type);
        check_gemm(a, b, at::randn({M, N}), {at::randn({N}), at::randn({M, N}), layout % 2 == 0});
        check_gemm(a, b, at::zeros({M, N}, type), {at::randn({N})});
      }
    }
  }
}

TEST(Gemm, BatchesOfMatrices) {
  at::manual_seed(3);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor a = at::randn({2, 3, 20, 35}).to(type), b = at::randn({2, 3, 35, 18}).to(type);
    check_gemm(a, b, at::zeros({2, 3, 20, 18}));
    check_gemm(a[0], at::randn({3, 18, 35}).to(type).transpose(1, 2), at::zeros({3, 20, 18}, type),
               {at::randn({18})});
  }
}

// Whole lines of a result that is read late are written past the caches.
TEST(Gemm, AResultReadLateIsTheSame) {
  at::manual_seed(3);
  for (const int64_t N : {64, 128, 200}) {
    const Tensor a = at::randn({110, 70}).to(at::kBFloat16),
                 b = at::randn({70, N}).to(at::kBFloat16);
    const Tensor c = at::full({110, N}, NAN), late = at::full({110, N}, NAN);
    gemm(a, b, c);
    gemm(a, b, late, {.read_late = true});
    expect_same_bits(late, c);
  }
}

// Left operands with a column of zeros beyond an odd K.
TEST(Gemm, TakesAColumnOfZerosBeyondAnOddK) {
  Random random(4);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t K : {1, 7, 64, 201}) {
      const Tensor b = draw_matrix(random, K, 90, type);
      for (int use = 0; use < 3; ++use) {
        const int64_t even = (K + 1) / 2 * 2;
        const Tensor wide = at::zeros({50 + use, even}, type), a = wide.narrow(1, 0, K);
        a.copy_(at::randn({50 + use, K}));
        const Tensor c = at::randn({50 + use, 90}), d = c.clone();
        const GemmExtras extras{at::randn({90}), at::randn({50 + use, 90}), true};
        const Product truth = product64(a, b, extras, c);
        padded_gemm(wide, b, c, extras);
        expect_rounded(c, truth.value, truth.error);
        padded_gemm(use == 0 ? a.t().contiguous().t() : a, b, d, extras);
        expect_rounded(d, truth.value, truth.error);
      }
    }
  }
}

// x [R, N] -> [N, R], perhaps with a column of zeros beyond, and the sums of R numbers.
void check_transposed(const Tensor& x, at::ScalarType type) {
  SCOPED_TRACE(testing::Message() << x.sizes() << x.strides() << x.scalar_type() << " " << type);
  const int64_t R = x.size(0), N = x.size(1);
  const Tensor sums = at::full({N}, NAN);
  const Tensor y = transposed(x, type, sums);
  ASSERT_GE(y.size(1), R);
  expect_same_bits(y.narrow(1, 0, R), x.to(type).t());
  EXPECT_TRUE((y.narrow(1, R, y.size(1) - R) == 0).all().item<bool>());
  expect_rounded(sums, f64(x).sum(0), f64(x).abs().sum(0) * (double(R) * kUnit32));
  expect_same_bits(transposed(x, type, {}), y);
}

TEST(Transposed, OfAnyShapeWithTheSumsOfColumns) {
  Random random(5);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto from : {at::kFloat, at::kBFloat16}) {
      for (const auto& [R, N] : std::vector<std::array<int64_t, 2>>{
               {1, 1}, {1, 70}, {31, 64}, {32, 16}, {64, 15}, {65, 17}, {127, 129}, {200, 63}}) {
        check_transposed(at::randn({R, N}).to(from), type);
        check_transposed(draw_matrix(random, R, N, from), type);
      }
    }
  }
}

Op linear_op(at::ScalarType out) {
  return {[=](const Tensors& x, const Sums& sums) {
            return linear(x[0], {weight_at(x, sums, 1), weight_at(x, sums, 2)}, out);
          },
          [](const Tensors& x) {
            return reference::linear(x[0], x[1], x.size() > 2 ? x[2] : Tensor());
          }};
}

// Of y = Z (x w^T + b) and the gradients, with dropout's factors Z [R, N]. dy is rounded to the
// weight's type before it is multiplied.
Bounds linear_bounds(const Tensor& x_any, const Tensor& w, const Tensor& b, const Tensor& dy_any,
                     const Tensor& z) {
  const Tensor x = x_any.reshape({-1, w.size(1)}), dy = f64(dy_any).reshape({-1, w.size(0)}) * z;
  const double K = double(w.size(1)), N = double(w.size(0)), R = double(x.size(0)), u = kUnit32;
  const double rounding = unit(w.scalar_type());
  Tensor size = at::matmul(f64(x).abs(), f64(w).t().abs());
  if (b.defined()) size = size + f64(b).abs();
  const Tensor y = z * size * ((K + 4) * u);
  const Tensor dx = at::matmul(dy.abs(), f64(w).abs()) * ((N + 1) * u + rounding);
  const Tensor dw = at::matmul(dy.abs().t(), f64(x).abs()) * ((R + 1) * u + rounding);
  Bounds bounds{y.reshape(dy_any.sizes()), {dx.reshape(x_any.sizes()), dw}};
  if (b.defined()) bounds.grads.push_back(dy.abs().sum(0) * ((R + 1) * u));
  return bounds;
}

struct LinearCase {
  at::ScalarType type, out;
  bool bias;
};

void check_linear(const LinearCase& c, at::IntArrayRef rows, int64_t K, int64_t N) {
  SCOPED_TRACE(testing::Message() << rows << " K " << K << " N " << N << " " << c.type << " -> "
                                  << c.out << " bias " << c.bias);
  auto x_sizes = rows.vec(), y_sizes = rows.vec();
  x_sizes.push_back(K);
  y_sizes.push_back(N);
  Tensors inputs = {at::randn(x_sizes).to(c.type), at::randn({N, K}).to(c.type)};
  if (c.bias) inputs.push_back(at::randn({N}));
  const Tensor dy = at::randn(y_sizes).to(c.out), bias = c.bias ? inputs[2] : Tensor();
  const Tensor ones = at::ones({}, at::kDouble);
  check(linear_op(c.out), inputs, dy, 1, linear_bounds(inputs[0], inputs[1], bias, dy, ones));
}

void check_linear_of_all_types(at::IntArrayRef rows, int64_t K, int64_t N) {
  check_linear({at::kFloat, at::kFloat, true}, rows, K, N);
  check_linear({at::kFloat, at::kFloat, false}, rows, K, N);
  check_linear({at::kBFloat16, at::kFloat, true}, rows, K, N);
  check_linear({at::kBFloat16, at::kBFloat16, true}, rows, K, N);
  check_linear({at::kBFloat16, at::kBFloat16, false}, rows, K, N);
}

TEST(Linear, ForwardAndGradientsMatchDouble) {
  Random random(6);
  check_linear_of_all_types({1}, 1, 1);
  check_linear_of_all_types({1, 1}, 70, 130);
  check_linear_of_all_types({65}, 20, 60);
  check_linear_of_all_types({3, 11}, 129, 31);
  check_linear_of_all_types({2, 100}, 64, 256);
  for (int trial = 0; trial < 4; ++trial) {
    check_linear_of_all_types({random.upto(3), random.upto(70)}, random.upto(90), random.upto(90));
  }
  const WithoutOwnGemm guard;
  check_linear_of_all_types({3, 11}, 129, 31);
}

TEST(Linear, HasTheTypeOfItsWeight) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensor y = linear(at::randn({2, 3}).to(type), {{at::randn({4, 3}).to(type)}, {}});
    EXPECT_EQ(y.scalar_type(), type);
  }
}

Op add_linear_op(double p, uint64_t key) {
  return {[=](const Tensors& x, const Sums& sums) {
            return add_linear(x[0], x[1], {weight_at(x, sums, 2), weight_at(x, sums, 3)}, p, key);
          },
          [=](const Tensors& x) {
            const Tensor y = reference::linear(x[1], x[2], x.size() > 3 ? x[3] : Tensor());
            return x[0] + y * f64(reference::dropout_factors(y.sizes(), p, key));
          }};
}

void check_add_linear(at::ScalarType type, int64_t T, int64_t K, int64_t N, double p, bool bias) {
  SCOPED_TRACE(testing::Message() << "T " << T << " K " << K << " N " << N << " p " << p << " bias "
                                  << bias << " " << type);
  const uint64_t key = 0xFEDCBA9876543210U + uint64_t(T);
  Tensors inputs = {at::randn({2, T, N}), at::randn({2, T, K}).to(type),
                    at::randn({N, K}).to(type)};
  if (bias) inputs.push_back(at::randn({N}));
  const Tensor dy = at::randn({2, T, N}), b = bias ? inputs[3] : Tensor();
  const Tensor z = f64(reference::dropout_factors({2 * T, N}, p, key));
  Bounds bounds = linear_bounds(inputs[1], inputs[2], b, dy, z);
  bounds.y = bounds.y + inputs[0].abs() * (double(K + 4) * kUnit32);
  bounds.grads.insert(bounds.grads.begin(), at::zeros_like(f64(dy)));
  check(add_linear_op(p, key), inputs, dy, 2, bounds);
}

TEST(AddLinear, ForwardAndGradientsMatchDouble) {
  Random random(7);
  for (const double p : {0.0, 0.1, 0.5}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      check_add_linear(type, 1, 1, 1, p, true);
      check_add_linear(type, 33, 64, 48, p, false);
      for (int trial = 0; trial < 3; ++trial) {
        check_add_linear(type, random.upto(60), random.upto(80), random.upto(80), p, true);
      }
    }
  }
}

// The residual's gradient is dy itself; with dropout all is as if composed of its parts.
TEST(AddLinear, IsTheSumOfItsParts) {
  at::manual_seed(8);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensors inputs = {at::randn({3, 7, 50}), at::randn({3, 7, 33}).to(type),
                            at::randn({50, 33}).to(type), at::randn({50})};
    const Tensor dy = at::randn({3, 7, 50});
    const auto composed = [](const Tensors& x, const Sums& sums) {
      const Affine w{weight_at(x, sums, 2), weight_at(x, sums, 3)};
      return x[0] + ops::dropout(linear(x[1], w, at::kFloat), 0.3, 9);
    };
    const Outcome whole = run(add_linear_op(0.3, 9), inputs, dy),
                  parts = run({composed, {}}, inputs, dy);
    expect_same_bits(whole.y, parts.y);
    for (size_t i = 0; i < 4; ++i) expect_same_bits(whole.grads[i], parts.grads[i]);
    expect_same_bits(run(add_linear_op(0.0, 9), inputs, dy).grads[0], dy);
  }
}

Op add_gelu_linear_op(double p, uint64_t key, GeluForm form) {
  return {[=](const Tensors& x, const Sums& sums) {
            const Affine w{weight_at(x, sums, 2), weight_at(x, sums, 3)};
            return add_gelu_linear(x[0], x[1], w, form, p, key);
          },
          [=](const Tensors& x) {
            const Tensor y = reference::linear(reference::gelu(x[1], form), x[2], x[3]);
            return x[0] + y * f64(reference::dropout_factors(y.sizes(), p, key));
          }};
}

// As for add_linear of g = gelu(x), which is off by `phi` |x| (see normalization_test.cpp) and
// rounded to the weight's type, as is its gradient before it is multiplied with gelu'(x), at most
// 1.13 and off by phi + 8 u; the bounds of the tanh form are not larger by more than kExp.
void check_add_gelu_linear(at::ScalarType type, int64_t T, int64_t K, int64_t N, double p,
                           GeluForm form) {
  SCOPED_TRACE(testing::Message() << "T " << T << " K " << K << " N " << N << " " << type);
  const Tensors inputs = {at::randn({2, T, N}), at::randn({2, T, K}).to(type),
                          at::randn({N, K}).to(type), at::randn({N})};
  const Tensor dy = at::randn({2, T, N}), x = f64(inputs[1]), w = f64(inputs[2]).abs();
  const Tensor z = f64(reference::dropout_factors({2 * T, N}, p, 5));
  const Tensor g = reference::gelu(x, form), size = f64(dy).abs() * z.view({2, T, N});
  const double phi = 0.75e-7 + 16 * kUnit32 + (form == GeluForm::kTanh ? 2 * kExp : 0);
  const Tensor g_error = x.abs() * phi + g.abs() * unit(type);
  Bounds bounds = linear_bounds(g, inputs[2], inputs[3], dy, z);
  bounds.y = bounds.y + at::matmul(g_error, w.t()) * z.view({2, T, N}) +
             inputs[0].abs() * (double(K + 4) * kUnit32);
  const Tensor dg_size = at::matmul(size, w);
  bounds.grads[0] = (bounds.grads[0] + dg_size * unit(type)) * 1.13 + dg_size * (phi + 8 * kUnit32);
  bounds.grads[1] = bounds.grads[1] + at::matmul(size.view({-1, N}).t(), g_error.view({-1, K}));
  bounds.grads.insert(bounds.grads.begin(), at::zeros_like(f64(dy)));
  check(add_gelu_linear_op(p, 5, form), inputs, dy, 2, bounds);
}

TEST(AddGeluLinear, ForwardAndGradientsMatchDouble) {
  Random random(10);
  for (const double p : {0.0, 0.3}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const auto form : {GeluForm::kErf, GeluForm::kTanh}) {
        check_add_gelu_linear(type, 1, 1, 1, p, form);
        check_add_gelu_linear(type, 33, 64, 48, p, form);
        check_add_gelu_linear(type, random.upto(60), random.upto(80), random.upto(80), p, form);
      }
    }
  }
}

TEST(AddGeluLinear, IsAddLinearOfGelu) {
  at::manual_seed(11);
  const auto composed = [](const Tensors& x, const Sums& sums) {
    const Tensor y = ops::gelu(x[1], GeluForm::kTanh);
    return add_linear(x[0], y, {weight_at(x, sums, 2), {}}, 0.3, 9);
  };
  const auto made_again = [](const Tensors& x, const Sums& sums) {
    return add_gelu_linear(x[0], x[1], {weight_at(x, sums, 2), {}}, GeluForm::kTanh, 0.3, 9);
  };
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Tensors inputs = {at::randn({3, 7, 50}), at::randn({3, 7, 33}).to(type),
                            at::randn({50, 33}).to(type)};
    const Tensor dy = at::randn({3, 7, 50});
    const Outcome a = run({made_again, {}}, inputs, dy), b = run({composed, {}}, inputs, dy);
    expect_same_bits(a.y, b.y);
    for (size_t i = 0; i < 3; ++i) expect_same_bits(a.grads[i], b.grads[i]);
  }
}

TEST(Linear, ANanShows) {
  at::manual_seed(9);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t R : {1, 40}) {
      const Tensor x = at::randn({R, 65}).to(type), w = at::randn({70, 65}).to(type);
      x[0][64] = NAN;
      const Tensor y = linear(x, {{w}, {}}, at::kFloat);
      EXPECT_TRUE(at::isnan(y[0]).all().item<bool>());
      EXPECT_FALSE(has_nan(y.narrow(0, 1, R - 1)));
    }
  }
}

}  // namespace
}  // namespace gigagpt::ops
