// For tests only: comparing tensors with a double-precision truth within a derived bound.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace gigagpt::ops {

constexpr double kUnit32 = 0x1p-24;   // unit roundoff of fp32
constexpr double kUnitBf16 = 0x1p-8;  // of bf16

inline at::Tensor f64(const at::Tensor& x) {
  return x.detach().to(at::kDouble);
}

// A bound on the rounding error of a product with K terms per sum, each sum kept in fp32 (Higham,
// "Accuracy and Stability of Numerical Algorithms", 3.1: |error| <= K u sum |a||b|), then rounded
// once to `out`. a and b are exact.
inline at::Tensor product_bound(const at::Tensor& a, const at::Tensor& b, at::ScalarType out) {
  const at::Tensor magnitude = at::matmul(f64(a).abs(), f64(b).abs());
  const double rounding = out == at::kBFloat16 ? kUnitBf16 : kUnit32;
  return magnitude * (double(a.size(-1)) * kUnit32 + rounding) + 1e-30;
}

// Every |actual - expected| is within `bound`, a tensor or a number.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected,
                         const at::Tensor& bound) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  ASSERT_TRUE(at::isfinite(f64(actual)).all().item<bool>());
  const at::Tensor ratio = (f64(actual) - f64(expected)).abs() / bound;
  EXPECT_LE(ratio.max().item<double>(), 1.0) << "largest error over its bound";
}
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double bound) {
  expect_close(actual, expected, at::full({}, bound, at::kDouble));
}

inline void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected) {
  ASSERT_TRUE(actual.defined() && expected.defined());
  EXPECT_TRUE(at::equal(actual, expected))
      << "largest difference " << (f64(actual) - f64(expected)).abs().max().item<double>();
}

}  // namespace gigagpt::ops
