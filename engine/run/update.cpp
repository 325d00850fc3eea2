#include "engine/run/update.h"

#include <cmath>

namespace gigagpt::engine {
namespace {

double gradient_norm(const Store& store) {
  double square_sum = 0;
  for (size_t i = store.layer_count(); i-- > 0;) {  // the order in which the backward pass ends
    square_sum += store.gradient_square_sum(i);
    if (!std::isfinite(square_sum)) {
      throw NonFinite("the gradient is not finite, first in layer " + store.layer(i).name);
    }
  }
  return std::sqrt(square_sum);
}

}  // namespace

std::optional<StepResult> run_step(Executor& executor, Store& store,
                                   std::span<const MicroBatch> batches, uint64_t key,
                                   const OptimizerStep& step, const Progress& progress) {
  store.expect_update(step);
  const auto loss = executor.train_step(batches, key, progress);
  if (!loss) return std::nullopt;
  return StepResult{*loss, gradient_norm(store)};
}

double apply_gradients(Store& store, const OptimizerStep& step) {
  const double norm = gradient_norm(store);
  const double scale = norm > step.max_norm ? step.max_norm / norm : 1.0;
  if (!store.updates_in_visits()) store.update(step.rule, step.lr, scale, step.step);
  return norm;
}

}  // namespace gigagpt::engine
