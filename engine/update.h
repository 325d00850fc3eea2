// The optimizer step over a whole store.
#pragma once

#include <optional>
#include <span>

#include "engine/executor.h"
#include "engine/store.h"

namespace gigagpt::engine {

struct StepResult {
  double loss = 0;
  double grad_norm = 0;  // of all gradients, before clipping
};

// A whole training step: Executor::train_step, then apply_gradients.
std::optional<StepResult> train_step(Executor& executor, Store& store,
                                     std::span<const MicroBatch> batches, uint64_t key,
                                     const OptimizerStep& step, const Progress& progress);

// Has every layer updated (when its weights are next asked for) with its gradients, scaled down so
// that their global L2 norm is at most `max_norm`, unless a store updates in visits. Returns the
// norm before clipping. Throws NonFinite naming the layer, before anything is changed, if a
// gradient is not finite.
double apply_gradients(Store& store, const OptimizerStep& step);

}  // namespace gigagpt::engine
