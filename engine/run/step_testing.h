// For tests only: a whole training step.
#pragma once

#include <optional>
#include <span>

#include "engine/run/executor.h"

namespace gigagpt::engine {

// The step's loss and norm, or nothing if `progress` ended it.
inline std::optional<Gradients> train_step(Executor& executor, Store& store,
                                           std::span<const MicroBatch> batches, uint64_t key,
                                           const Update& update, const Progress& progress) {
  const auto gradients = executor.compute_gradients(batches, key, update, progress);
  if (gradients) store.commit(update, gradients->norm);
  return gradients;
}

}  // namespace gigagpt::engine
