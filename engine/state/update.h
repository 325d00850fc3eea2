// The optimizer step that a training step's gradients are for.
#pragma once

#include <cstdint>

#include "ops/optimizer.h"

namespace gigagpt::engine {

struct Update {
  ops::UpdateRule rule = {};
  double lr = 0;
  double max_norm = 1;    // gradients of a larger norm are scaled down to it
  int64_t step = 0;       // counts from 1
  double grad_scale = 1;  // multiplies the gradients; known once their norm is

  // The update as it is made with gradients of that norm.
  Update scaled_for(double norm) const {
    Update update = *this;
    update.grad_scale = norm > max_norm ? max_norm / norm : 1.0;
    return update;
  }
};

}  // namespace gigagpt::engine
