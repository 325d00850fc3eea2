// Updates of parameters and sums over gradients for a stretch of elements, for a caller's thread.
// Plain arrays, no LibTorch.
#pragma once

#include <cstddef>

#include "ops/kernels/bf16.h"

namespace gigagpt::ops::kernels {

struct UpdateArrays {
  float* value;
  const float* grad;
  float* exp_avg;
  float* exp_avg_sq;  // AdamW only
  Bf16* compute;      // gets the new value rounded, unless null
};

// The numbers of a step in the forms that the loops use.
struct UpdateNumbers {
  float keep;  // 1 - lr weight_decay
  float grad_scale;
  float beta1, beta2;
  float one_minus_beta1, one_minus_beta2;
  float rate;     // AdamW: lr / (1 - beta1^t); SGD: lr
  float v_scale;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};

struct OptimizerKernels {
  void (*adamw)(const UpdateArrays& arrays, const UpdateNumbers& numbers, size_t begin, size_t end);
  void (*sgd)(const UpdateArrays& arrays, const UpdateNumbers& numbers, size_t begin, size_t end);
  double (*sum_of_squares)(const float* values, size_t n);
  void (*add)(const float* values, float scale, size_t n, float* sum);  // sum += scale * values
  void (*round)(const float* values, size_t n, Bf16* rounded);
  void (*widen)(const Bf16* values, size_t n, float* wide);
};

const OptimizerKernels& optimizer_kernels();  // the best for this CPU

}  // namespace gigagpt::ops::kernels
