// One pass over a row or a stretch of elements, for a caller's thread. Plain arrays, no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/gelu_form.h"
#include "ops/kernels/bf16.h"

namespace gigagpt::ops::kernels {

// Layer normalisation (Ba et al. 2016), or by the root mean square alone (Zhang and Sennrich 2019).
enum class NormForm { kLayer, kRms };

// T is the type of activations that are multiplied, float or Bf16; all else is fp32.
template <class T>
struct RowKernels {
  // By NormForm: y = (x - mean) rstd weight + bias, bias possibly null; kRms has 0 for the mean.
  // All [C], but `stats`, which gets mean and rstd.
  void (*norm[2])(const float* x, const float* weight, const float* bias, size_t C, float eps, T* y,
                  float stats[2]);
  // dx = rstd (g - mean(g) - n mean(g n)) with n = (x - mean) rstd and g = dy weight, plus `also`
  // unless null; kRms has 0 for the mean of g. Adds dy n to dweight and, unless null, dy to dbias.
  void (*norm_backward[2])(const float* x, const float* weight, const float stats[2], const T* dy,
                           const float* also, size_t C, float* dx, float* dweight, float* dbias);
  // By GeluForm: x Phi(x), and dx = dy (Phi(x) + x Phi'(x)). kErf has Phi by the erf 7.1.26 of
  // Abramowitz and Stegun (absolute error 1.5e-7); kTanh (1 + tanh(u)) / 2 in its place, with
  // u = sqrt(2 / pi) (x + 0.044715 x^3). dx may be dy; y gets x Phi(x) again.
  void (*gelu[2])(const T* x, size_t n, T* y);
  void (*gelu_backward[2])(const T* x, const T* dy, size_t n, T* dx, T* y);
  // y = x sigmoid(x) u; and its gradients by x and u. dx and du may be x and u.
  void (*silu_times)(const T* x, const T* u, size_t n, T* y);
  void (*silu_times_backward)(const T* x, const T* u, const T* dy, size_t n, T* dx, T* du);
  // Turns the pairs (x[i], x[half + i]), i < half, by angles with these cosines and sines, the
  // latter times `sign`. y may not be x.
  void (*rotate)(const T* x, const float* cosines, const float* sines, float sign, size_t half,
                 T* y);
  // The loss of one row of logits, logsumexp(x) - x[label], and its gradient by the logits
  // (softmax(x) - onehot(label)) scale. Overwrites x; dx may lie in the same place.
  double (*cross_entropy)(float* x, size_t V, size_t label, float scale, T* dx);
  // That loss without the gradient.
  double (*cross_entropy_loss)(const float* x, size_t V, size_t label);
  // x's entries become exp(scale (x - max)); returns their sum.
  float (*exponentials)(float* x, size_t n, float scale);
  // y = x / (1 - p) where dropout keeps it, else 0, with p above 0; element i takes word (first +
  // i) % 4 of philox(key, (first + i) / 4). y may be x.
  void (*dropout)(const T* x, size_t n, double p, uint64_t key, uint64_t first, T* y);
  // Rounded to nearest even; below 2^-126 zero will do.
  void (*from_floats)(const float* x, size_t n, T* y);
  // x . row, and y += a row, all [n].
  float (*dot)(const float* x, const T* row, size_t n);
  void (*add_scaled)(float a, const T* row, size_t n, float* y);
};

// The best for this CPU. For float and Bf16.
template <class T>
const RowKernels<T>& row_kernels();
// With its instruction for rounding; only where has_avx512_bf16().
const RowKernels<Bf16>& row_kernels_avx512_bf16();

}  // namespace gigagpt::ops::kernels
