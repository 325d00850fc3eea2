// The optimizer step for threads that have no OpenMP. No LibTorch.
#include "ops/kernels/optimizer.h"
#include "ops/optimizer.h"

namespace gigagpt::ops {

void update_alone(std::span<const ParamState> states, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step) {
  const kernels::UpdateNumbers numbers = kernels::update_numbers(rule, lr, grad_scale, step);
  for (const ParamState& state : states) {
    kernels::update(state, numbers, 0, state.value.size());
  }
}

}  // namespace gigagpt::ops
