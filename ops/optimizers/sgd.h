// Gradient descent with momentum beta1 (Sutskever et al. 2013, in PyTorch's form).
#pragma once

#include "ops/optimizers/optimizer.h"

namespace gigagpt::ops {

struct Sgd {
  static constexpr Optimizer kInfo = {.name = "sgd", .exp_avg = true};
  float momentum;

  explicit Sgd(const StepNumbers& n) : momentum(float(n.beta1)) {}

  float step(float g, float& m) const { return m = momentum * m + g; }
};

}  // namespace gigagpt::ops
