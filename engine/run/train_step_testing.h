// For tests only: a whole training step.
#pragma once

#include <optional>
#include <span>

#include "engine/run/update.h"

namespace gigagpt::engine {

// A whole step; its loss and norm, or nothing if `progress` said so.
inline std::optional<StepResult> train_step(Executor& executor, Store& store,
                                            std::span<const MicroBatch> batches, uint64_t key,
                                            const OptimizerStep& step, const Progress& progress) {
  const auto result = run_step(executor, store, batches, key, step, progress);
  if (result) apply_gradients(store, step);
  return result;
}

}  // namespace gigagpt::engine
