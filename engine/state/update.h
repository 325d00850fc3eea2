// The optimizer step that a step's gradients are for.
#pragma once

#include <cstdint>

#include "ops/optimizer.h"

namespace gigagpt::engine {

// An optimizer step whose gradients are complete; `step` counts from 1.
struct PendingUpdate {
  ops::UpdateRule rule;
  double lr = 0;
  double grad_scale = 1;
  int64_t step = 0;
};

}  // namespace gigagpt::engine
