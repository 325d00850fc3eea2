// The optimizer step for threads that have no OpenMP. No LibTorch.
#include "ops/optimizer.h"
#include "ops/updater.h"

namespace gigagpt::ops {

void update_alone(std::span<const ParamState> states, const UpdateRule& rule, double lr,
                  double grad_scale, int64_t step) {
  const Updater updater(rule, lr, grad_scale, step);
  for (const ParamState& state : states) updater(state, 0, state.value.size());
}

}  // namespace gigagpt::ops
