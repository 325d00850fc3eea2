// Updates of parameters and sums over gradients for a stretch of elements, for a caller's thread.
// Plain arrays, no LibTorch.
#pragma once

#include <cstddef>

#include "ops/kernels/bf16.h"
#include "ops/optimizer.h"

namespace gigagpt::ops::kernels {

// The numbers of a step in the forms that the loops use.
struct UpdateNumbers {
  bool sgd;
  float keep;  // 1 - lr weight_decay
  float grad_scale;
  float beta1, beta2;
  float one_minus_beta1, one_minus_beta2;
  float rate;     // AdamW: lr / (1 - beta1^t); SGD: lr
  float v_scale;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};
UpdateNumbers update_numbers(const UpdateRule& rule, double lr, double grad_scale, int64_t step);

struct OptimizerKernels {
  // The elements [begin, end): the same bits for every way of cutting a parameter into stretches.
  void (*update)(const ParamState& state, const UpdateNumbers& numbers, size_t begin, size_t end);
  double (*sum_of_squares)(const float* values, size_t n);
  void (*add)(const float* values, float scale, size_t n, float* sum);  // sum += scale * values
  void (*round)(const float* values, size_t n, Bf16* rounded);
  void (*widen)(const Bf16* values, size_t n, float* wide);
};

const OptimizerKernels& optimizer_kernels();  // the best for this CPU

}  // namespace gigagpt::ops::kernels
