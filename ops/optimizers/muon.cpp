#include "ops/optimizers/muon.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "ops/gemm.h"
#include "ops/kernels/bf16.h"
#include "ops/optimizer.h"
#include "ops/parallel.h"
#include "ops/pointers.h"

namespace gigagpt::ops {
namespace {

using at::Tensor;

constexpr double kLeastNorm = 1e-7;
// x becomes a x + (b A + c A A) x with A = x x^T, which takes singular values in (0, 1] to about 1.
constexpr float kA = 3.4445F, kB = -4.7750F, kC = 2.0315F;

float as_float(float x) {
  return x;
}
float as_float(kernels::Bf16 x) {
  return kernels::to_float(x);
}
void store(float value, float& to) {
  to = value;
}
void store(float value, kernels::Bf16& to) {
  to = kernels::to_bf16(value);
}

template <class F>
void over(size_t count, const F& f) {
  constexpr size_t kWorthAThread = 1 << 14;
  parallel_parts(count, kWorthAThread, [&](size_t begin, size_t end, size_t) {
    for (size_t i = begin; i < end; ++i) f(i);
  });
}

// Moves the momentum to the gradient, and puts what is ahead of it (Nesterov) into its place.
void look_ahead(std::span<float> gradient, std::span<float> exp_avg, float scale, float momentum) {
  over(gradient.size(), [&](size_t i) {
    const float g = scale * gradient[i];
    const float m = exp_avg[i] + (1 - momentum) * (g - exp_avg[i]);
    exp_avg[i] = m;
    gradient[i] = g + momentum * (m - g);
  });
}

// The polynomial's factor of x, from A and A A: a I + b A + c A A.
template <class T>
void fill_factor(const Tensor& gram, const Tensor& square, const Tensor& factor) {
  const T* a = data<T>(gram);
  const float* aa = square.data_ptr<float>();
  T* to = data<T>(factor);
  const auto size = size_t(gram.size(0));
  over(size * size, [&](size_t i) {
    const float identity = i % (size + 1) == 0 ? kA : 0.0F;
    store(identity + kB * as_float(a[i]) + kC * aa[i], to[i]);
  });
}

// values [R C], a matrix of a norm that is not 0, to the nearest orthogonal one times `scale`.
template <class T>
void make_orthogonal(std::span<float> values, int64_t rows, int64_t columns, float scale) {
  const at::ScalarType type = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;
  const int64_t size = std::min(rows, columns);
  Tensor x = at::empty({rows, columns}, type), next = at::empty({rows, columns}, type);  // R C
  const Tensor gram = at::empty({size, size}, type), factor = at::empty({size, size}, type);
  const Tensor square = at::empty({size, size}, at::kFloat);
  const auto norm = float(std::max(std::sqrt(sum_of_squares(values)), kLeastNorm));
  T* normed = data<T>(x);
  over(values.size(), [&](size_t i) { store(values[i] / norm, normed[i]); });
  for (int i = 0; i < Muon::kIterations; ++i) {
    rows <= columns ? gemm(x, x.t(), gram) : gemm(x.t(), x, gram);
    gemm(gram, gram, square);
    fill_factor<T>(gram, square, factor);
    rows <= columns ? gemm(factor, x, next) : gemm(x, factor, next);
    std::swap(x, next);
  }
  const T* orthogonal = data<T>(x);
  over(values.size(), [&](size_t i) { values[i] = scale * as_float(orthogonal[i]); });
}

}  // namespace

void Muon::direct(const WholeParam& param, const StepNumbers& numbers, double) {
  const int64_t rows = param.shape[param.shape.size() - 2], columns = param.shape.back();
  // The root mean square of AdamW's steps is 0.2 to 0.4; that of an orthogonal matrix depends on
  // its size.
  const auto scale = float(0.2 * std::sqrt(double(std::max(rows, columns))));
  look_ahead(param.grad, param.exp_avg, float(param.grad_scale), float(numbers.muon_momentum));
  const auto size = size_t(rows * columns);
  for (size_t begin = 0; begin < param.grad.size(); begin += size) {
    const auto matrix = param.grad.subspan(begin, size);
    param.bf16 ? make_orthogonal<kernels::Bf16>(matrix, rows, columns, scale)
               : make_orthogonal<float>(matrix, rows, columns, scale);
  }
}

}  // namespace gigagpt::ops
