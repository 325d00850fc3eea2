// Updates of parameters and sums over gradients for a stretch of elements, for a caller's thread.
// Plain arrays, no LibTorch.
#pragma once

#include <cstddef>

#include "ops/kernels/bf16.h"
#include "ops/optimizer.h"

namespace gigagpt::ops::kernels {

// A step's numbers, common to all parameters.
struct UpdateNumbers {
  size_t optimizer;  // its place among optimizers()
  StepNumbers numbers;
  double lr;
  double grad_scale;
};

using UpdateKernel = void (*)(const ParamState& state, const UpdateNumbers& numbers, size_t begin,
                              size_t end);
struct OptimizerKernels {
  // For each of optimizers(), the elements [begin, end): the same bits for every way of cutting a
  // parameter into stretches.
  const UpdateKernel* updates;
  double (*sum_of_squares)(const float* values, size_t n);
  void (*add)(const float* values, float scale, size_t n, float* sum);  // sum += scale * values
  void (*round)(const float* values, size_t n, Bf16* rounded);
  void (*widen)(const Bf16* values, size_t n, float* wide);
};

const OptimizerKernels& optimizer_kernels();  // the best for this CPU

UpdateNumbers update_numbers(const UpdateRule& rule, double lr, double grad_scale, int64_t step);
inline void update(const ParamState& state, const UpdateNumbers& numbers, size_t begin,
                   size_t end) {
  optimizer_kernels().updates[numbers.optimizer](state, numbers, begin, end);
}

}  // namespace gigagpt::ops::kernels
