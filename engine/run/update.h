// The optimizer step over a whole store.
#pragma once

#include <optional>
#include <span>

#include "engine/run/executor.h"
#include "engine/run/store.h"

namespace gigagpt::engine {

struct StepResult {
  double loss = 0;
  double grad_norm = 0;  // L2, of all gradients, before clipping
};

// Executor::train_step for gradients that are for `step`, which apply_gradients() completes. Throws
// NonFinite naming the layer if the loss or a gradient is not finite.
std::optional<StepResult> run_step(Executor& executor, Store& store,
                                   std::span<const MicroBatch> batches, uint64_t key,
                                   const OptimizerStep& step, const Progress& progress);

// Has every layer updated (when its weights are next asked for) with its gradients, scaled down so
// that their global norm is at most step.max_norm; a store that updates in visits is left as it is.
// From here on a file may say that the step is done. Returns the norm. Throws NonFinite, before
// anything is changed, if it is not finite.
double apply_gradients(Store& store, const OptimizerStep& step);

}  // namespace gigagpt::engine
