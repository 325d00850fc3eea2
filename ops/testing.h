// For tests only: ops beside a double-precision truth, within derived bounds.
//
// Bounds are of first order in the roundings, elementwise, with the magnitudes that the numbers at
// hand have (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1): a sum of n terms is
// off by at most n u times the sum of their magnitudes, in whatever order.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "ops/weight.h"

namespace gigagpt::ops {

constexpr double kUnit32 = 0x1p-24;   // unit roundoff of fp32
constexpr double kUnitBf16 = 0x1p-8;  // of bf16
// The relative error of the kernels' exponential, for an exact argument: its polynomial and the
// last steps of Horner's scheme, with or without fused multiply-add.
constexpr double kExp = 5 * kUnit32;

inline double unit(at::ScalarType type) {
  return type == at::kBFloat16 ? kUnitBf16 : kUnit32;
}

inline at::Tensor f64(const at::Tensor& x) {
  return x.detach().to(at::kDouble);
}

// The error of a product whose sums are kept in fp32, before it is rounded to a result: K u |a||b|.
inline at::Tensor product_error(const at::Tensor& a, const at::Tensor& b) {
  return at::matmul(f64(a).abs(), f64(b).abs()) * (double(a.size(-1)) * kUnit32);
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

// The same for a result that is `error` off and then rounded to its own type.
inline void expect_rounded(const at::Tensor& actual, const at::Tensor& expected,
                           const at::Tensor& error) {
  ASSERT_TRUE(actual.defined());
  const at::Tensor magnitude = f64(expected).abs() + error;
  expect_close(actual, expected, error + magnitude * unit(actual.scalar_type()) + 1e-30);
}

inline void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected) {
  ASSERT_TRUE(actual.defined() && expected.defined());
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(at::equal(actual, expected))
      << "largest difference " << (f64(actual) - f64(expected)).abs().max().item<double>();
}

inline bool has_nan(const at::Tensor& x) {
  return at::isnan(x).any().item<bool>();
}

// As many threads for ATen and the kernels, as long as this lives.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(at::get_num_threads()) {
    at::set_num_threads(threads);
  }
  ~ThreadCount() { at::set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

using Tensors = std::vector<at::Tensor>;
using Sums = std::vector<GradientSum*>;

// An op, fast and written out plainly, with all but its differentiable inputs bound. sums[i] is
// where the gradient of input i goes, null for autograd.
struct Op {
  std::function<at::Tensor(const Tensors& inputs, const Sums& sums)> fast;
  std::function<at::Tensor(const Tensors& inputs)> plain;
};

// Input i as a weight; undefined if there are not that many.
inline Weight weight_at(const Tensors& inputs, const Sums& sums, size_t i) {
  return i < inputs.size() ? Weight{inputs[i], sums[i]} : Weight{};
}

// What an op gave for inputs and dy.
struct Outcome {
  at::Tensor y;
  Tensors grads;
};

// How far off y and the gradients may be before they are rounded to their types.
struct Bounds {
  at::Tensor y;
  Tensors grads;
};

inline Outcome run(const Op& op, const Tensors& inputs, const at::Tensor& dy, Sums sums = {}) {
  Tensors leaves;
  for (const at::Tensor& x : inputs) leaves.push_back(x.detach().requires_grad_(true));
  sums.resize(inputs.size());
  const at::Tensor y = op.fast(leaves, sums);
  EXPECT_EQ(y.sizes(), dy.sizes());
  return {y.detach(), torch::autograd::grad({y}, leaves, {dy}, false, false, true)};
}

inline Outcome run_plain64(const Op& op, const Tensors& inputs, const at::Tensor& dy) {
  const auto plain = [&](const Tensors& leaves, const Sums& /*none*/) { return op.plain(leaves); };
  Tensors inputs64;
  for (const at::Tensor& x : inputs) inputs64.push_back(f64(x));
  return run({plain, {}}, inputs64, f64(dy));
}

inline void expect_true(const Outcome& actual, const Outcome& truth, const Bounds& bounds) {
  expect_rounded(actual.y, truth.y, bounds.y);
  for (size_t i = 0; i < truth.grads.size(); ++i) {
    SCOPED_TRACE("gradient of input " + std::to_string(i));
    expect_rounded(actual.grads[i], truth.grads[i], bounds.grads[i]);
  }
}

// The gradients along a random direction d are (f(x + h d) - f(x - h d)) / 2h of f = sum(dy y), y
// plain and in double, but for the gradients' own errors e, the truncation of the difference, which
// is a third of its change when h doubles, and the roundings of f. For normal numbers d the sum of
// e d has a deviation of |e|; six of them are allowed.
inline void expect_slope(const Op& op, const Tensors& inputs, const at::Tensor& dy,
                         const Outcome& fast, const Bounds& bounds) {
  Tensors directions;
  double slope = 0, variance = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor d = at::randn(inputs[i].sizes(), at::kDouble), grad = f64(fast.grads[i]);
    slope += (grad * d).sum().item<double>();
    variance += (bounds.grads[i] + grad.abs() * kUnit32).square().sum().item<double>();
    directions.push_back(d);
  }
  const auto f = [&](double step) {
    Tensors moved;
    for (size_t i = 0; i < inputs.size(); ++i) {
      moved.push_back(f64(inputs[i]) + step * directions[i]);
    }
    return (f64(dy) * op.plain(moved)).sum().item<double>();
  };
  const auto difference = [&](double h) { return (f(h) - f(-h)) / (2 * h); };
  const double h = 1e-5, near = difference(h), far = difference(2 * h);
  const double roundings = 64 * 0x1p-53 * (f64(dy) * f64(fast.y)).abs().sum().item<double>() / h;
  EXPECT_NEAR(slope, near, 6 * std::sqrt(variance) + std::abs(far - near) + roundings);
}

// The inputs from first_weight on deliver to sums. An empty one, whatever is in its memory, gets
// autograd's bits; in a filled one a second micro-batch is added. For bf16 weights, which autograd
// rounds, the product itself may add: up to three times the error of one.
inline void expect_sums(const Op& op, const Tensors& inputs, const at::Tensor& dy,
                        size_t first_weight, const Outcome& fast, const Outcome& truth,
                        const Bounds& bounds) {
  std::vector<GradientSum> sums(inputs.size());
  Sums to(inputs.size());
  for (size_t i = first_weight; i < inputs.size(); ++i) {
    sums[i].sum = at::full(inputs[i].sizes(), NAN, at::kFloat);
    to[i] = &sums[i];
  }
  const Outcome first = run(op, inputs, dy, to);
  const bool rounded = inputs[first_weight].scalar_type() == at::kBFloat16;
  const at::Tensor dy2 = dy * (rounded ? 0.5 : 0.3);
  const Outcome alone = run(op, inputs, dy2);
  for (size_t i = 0; i < first_weight; ++i) expect_same_bits(first.grads[i], fast.grads[i]);
  for (size_t i = first_weight; i < inputs.size(); ++i) {
    EXPECT_FALSE(first.grads[i].defined()) << "autograd sees none";
    EXPECT_EQ(sums[i].state, GradientSum::kFilled);
    expect_same_bits(sums[i].sum.to(inputs[i].scalar_type()), fast.grads[i]);
    expect_rounded(sums[i].sum, truth.grads[i], bounds.grads[i]);
  }
  run(op, inputs, dy2, to);
  for (size_t i = first_weight; i < inputs.size(); ++i) {
    EXPECT_EQ(sums[i].state, GradientSum::kFilled);
    if (rounded) {
      expect_rounded(sums[i].sum, truth.grads[i] * 1.5, bounds.grads[i] * 3);
    } else {
      expect_same_bits(sums[i].sum, fast.grads[i] + alone.grads[i]);
    }
  }
}

// All of the above, and the same bits once more, whatever the strides of dy.
inline void check(const Op& op, const Tensors& inputs, const at::Tensor& dy, size_t first_weight,
                  const Bounds& bounds) {
  const Outcome fast = run(op, inputs, dy), truth = run_plain64(op, inputs, dy);
  expect_true(fast, truth, bounds);
  const at::Tensor apart = dy.dim() == 0 ? dy : at::stack({dy, dy}, -1).select(-1, 0);
  const Outcome again = run(op, inputs, apart);
  expect_same_bits(again.y, fast.y);
  for (size_t i = 0; i < inputs.size(); ++i) expect_same_bits(again.grads[i], fast.grads[i]);
  if (first_weight < inputs.size()) expect_sums(op, inputs, dy, first_weight, fast, truth, bounds);
  const auto is_fp32 = [](const at::Tensor& x) { return x.scalar_type() == at::kFloat; };
  if (is_fp32(fast.y) && std::all_of(inputs.begin(), inputs.end(), is_fp32)) {
    expect_slope(op, inputs, dy, fast, bounds);
  }
}

// Seeded choices for loops over shapes.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) { at::manual_seed(seed); }
  bool coin() { return engine_() % 2 == 0; }
  int64_t upto(int64_t most) { return int64_t(1 + engine_() % size_t(most)); }  // 1 to most

 private:
  std::mt19937 engine_;
};

}  // namespace gigagpt::ops
