// For tests only: a whole training step, and values of one parameter.
#pragma once

#include <optional>
#include <span>
#include <string>

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

// In the middle of a run.
inline void set_values(Store& store, const std::string& name, std::span<const float> values) {
  store.settle();
  store.storage().begin_writing(store.step());
  store.write(Array::kMaster, name, 0, values);
  store.storage().finish_writing();
}

}  // namespace gigagpt::engine
