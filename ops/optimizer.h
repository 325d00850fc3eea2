// Parameter updates and gradient norms over plain arrays, threaded, one pass each.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/bf16.h"

namespace gigagpt::ops {

// One parameter's arrays, all of one length. SGD does not touch exp_avg_sq.
struct ParamState {
  std::span<float> value;  // fp32 master weights
  std::span<const float> grad;
  std::span<float> exp_avg;          // first moment, or SGD's momentum
  std::span<float> exp_avg_sq;       // second moment
  kernels::Bf16* compute = nullptr;  // gets the new values rounded, unless null
  bool decays = true;
};

struct UpdateRule {
  bool sgd = false;  // else AdamW
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  uint64_t seed = 0;  // of random rounding (ops/compact.h)
};

// AdamW (Loshchilov and Hutter 2019): w -= lr decay w; m = b1 m + (1 - b1) g;
// v = b2 v + (1 - b2) g^2; w -= lr m' / (sqrt(v') + eps) with m' = m / (1 - b1^t), v' likewise.
// SGD: w -= lr decay w; m = b1 m + g; w -= lr m. g is grad * grad_scale; `step` is t, from 1.
// All parameters in one pass over the threads.
void update(std::span<const ParamState> states, const UpdateRule& rule, double lr,
            double grad_scale, int64_t step);

// The same bits from the caller's thread alone, which may be one without OpenMP.
void update_alone(std::span<const ParamState> states, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step);

// Rounds each to the nearest number that bf16 has.
void round_to_bf16(std::span<float> values);

// Sum of squares in double; the order of additions depends on the length alone.
double sum_of_squares(std::span<const float> values);

}  // namespace gigagpt::ops
