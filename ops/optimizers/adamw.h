// AdamW (Loshchilov and Hutter 2019, algorithm 2).
#pragma once

#include "ops/optimizers/optimizer.h"

namespace gigagpt::ops {

struct AdamW {
  static constexpr Optimizer kInfo = {
      .name = "adamw", .exp_avg = true, .exp_avg_sq = true, .mup_power = -1};
  float beta1, beta2, rest1, rest2, epsilon;
  float scale1, scale2;  // undo the bias of averages that began at zero

  explicit AdamW(const StepNumbers& n)
      : beta1(float(n.beta1)),
        beta2(float(n.beta2)),
        rest1(float(1 - n.beta1)),
        rest2(float(1 - n.beta2)),
        epsilon(float(n.epsilon)),
        scale1(float(1 / n.correction1)),
        scale2(float(1 / std::sqrt(n.correction2))) {}

  float step(float g, float& m, float& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * (g * g);
    return scale1 * m / (scale2 * std::sqrt(v) + epsilon);
  }
};

}  // namespace gigagpt::ops
