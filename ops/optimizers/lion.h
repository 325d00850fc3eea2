// Lion (Chen et al. 2023, algorithm 2): the sign of an average. Its rates are three to ten times
// smaller than AdamW's, and its weight decay as much larger.
#pragma once

#include "ops/optimizers/optimizer.h"

namespace gigagpt::ops {

struct Lion {
  static constexpr Optimizer kInfo = {.name = "lion", .exp_avg = true, .mup_power = -1};
  float beta1, beta2, rest1, rest2;

  explicit Lion(const StepNumbers& n)
      : beta1(float(n.beta1)),
        beta2(float(n.beta2)),
        rest1(float(1 - n.beta1)),
        rest2(float(1 - n.beta2)) {}

  float step(float g, float& m) const {
    const float mixed = beta1 * m + rest1 * g;
    m = beta2 * m + rest2 * g;
    return float(mixed > 0) - float(mixed < 0);
  }
};

}  // namespace gigagpt::ops
