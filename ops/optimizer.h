// Parameter updates and gradient norms over plain arrays, threaded, one pass each.
#pragma once

#include <cstdint>
#include <span>

#include "ops/kernels/bf16.h"
#include "ops/optimizers/adamw.h"

namespace gigagpt::ops {

// What one parameter has of its own in an update.
struct ParamFactors {
  double rate = 1;     // of the learning rate
  double decay = 1;    // of the weight decay; 0: none
  double epsilon = 1;  // of the optimizer's epsilon
  bool operator==(const ParamFactors&) const = default;
};

// One parameter's arrays, all of one length but for those that the optimizer does not keep.
struct ParamState {
  std::span<float> value;  // fp32 master weights
  std::span<const float> grad;
  std::span<float> exp_avg;
  std::span<float> exp_avg_sq;
  kernels::Bf16* compute = nullptr;  // gets the new values rounded, unless null
  ParamFactors factors = {};
  bool directed = false;  // grad is the direction already: see WholeParam
};

// A parameter of which the optimizer needs all at once.
struct WholeParam {
  std::span<const int64_t> shape;
  std::span<const float> value;
  std::span<float> grad;                 // becomes the direction
  std::span<float> exp_avg, exp_avg_sq;  // empty, or as Kept says
  double grad_scale = 1;
  ParamFactors factors = {};
  bool bf16 = false;  // products are made in bf16
};

struct UpdateRule {
  const Optimizer* optimizer = &AdamW::kInfo;
  OptimizerNumbers numbers = {};
  uint64_t seed = 0;  // of random rounding (ops/compact.h)
};

// w = w (1 - lr weight_decay) - lr direction, where the optimizer makes the direction of
// grad * grad_scale and of what it keeps (ops/optimizers/); `step` counts from 1. All parameters in
// one pass over the threads.
void update(std::span<const ParamState> states, const UpdateRule& rule, double lr,
            double grad_scale, int64_t step);

// The same bits from the caller's thread alone, which may be one without OpenMP.
void update_alone(std::span<const ParamState> states, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step);

// Moves what the rule's optimizer keeps of the parameter, and puts the direction in place of its
// gradient. Uses all threads; the bits depend on how many there are.
void make_direction(const WholeParam& param, const UpdateRule& rule, double lr, int64_t step);
using DirectionMaker = void (*)(const WholeParam& param, const UpdateRule& rule, double lr,
                                int64_t step);

// Rounds each to the nearest number that bf16 has.
void round_to_bf16(std::span<float> values);

// Sum of squares in double; the order of additions depends on the length alone.
double sum_of_squares(std::span<const float> values);

}  // namespace gigagpt::ops
