#include "engine/state/update.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/optimizers/list.h"

namespace gigagpt::engine {

std::vector<Option> OptimizerRules::options() {
  return {
      {"learning_rate", &learning_rate, "peak learning rate", at_least(0)},
      {"warmup_steps", &warmup_steps, "steps of linear warm-up from 0", at_least(0)},
      {"decay_steps", &decay_steps, "of decay to a tenth; null: all after warm-up", at_least(1)},
      {"weight_decay", &weight_decay, "decoupled weight decay of matrices", at_least(0)},
      {"max_gradient_norm", &max_gradient_norm, "clip the gradient's norm to this; 0: off",
       at_least(0)},
      {"adam_epsilon", &adam_epsilon, "AdamW's epsilon", above(0)},
      {"lr_decay", &lr_decay, "shape of the decay", one_of({"cosine", "linear"})},
      {"optimizer", &optimizer, "update rule", one_of(ops::optimizer_names())},
      {"beta1", &beta1, "decay of the gradient's average; SGD's momentum", between(0, 0.99999)},
      {"beta2", &beta2, "decay of its square's average; Lion's of its average",
       between(0, 0.99999)},
  };
}

double OptimizerRules::learning_rate_at(int64_t step, int64_t num_steps) const {
  if (step < warmup_steps) return learning_rate * double(step) / double(warmup_steps);
  const int64_t decay = decay_steps.value_or(std::max<int64_t>(num_steps - warmup_steps, 1));
  const double t = std::min(1.0, double(step - warmup_steps) / double(decay));
  const double left = lr_decay == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * t)) : 1 - t;
  return learning_rate * (0.1 + 0.9 * left);
}

Update OptimizerRules::update_at(int64_t step, int64_t num_steps, int64_t seed) const {
  return {.rule = {ops::find_optimizer(optimizer),
                   {beta1, beta2, adam_epsilon, weight_decay},
                   uint64_t(seed)},
          .lr = learning_rate_at(step, num_steps),
          .max_norm = max_gradient_norm,
          .step = step + 1};
}

}  // namespace gigagpt::engine
