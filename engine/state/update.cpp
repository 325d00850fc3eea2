#include "engine/state/update.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace gigagpt::engine {
namespace {

// wsd: warm-up, stable, decay (Hu et al. 2024); inverse_sqrt: Vaswani et al. 2017.
const std::vector<std::string> kSchedules = {"cosine", "linear", "constant", "wsd", "inverse_sqrt"};

}  // namespace

std::vector<Option> OptimizerRules::options() {
  return {
      {"learning_rate", &learning_rate, "peak learning rate", at_least(0)},
      {"warmup_steps", &warmup_steps, "steps of linear warm-up from 0", at_least(0)},
      {"lr_decay", &lr_decay, "schedule after warm-up", one_of(kSchedules)},
      {"decay_steps", &decay_steps, "of decay; null: all after warm-up (wsd: a tenth of the run)",
       at_least(1)},
      {"min_lr", &min_lr, "where the decay ends; null: learning_rate / 10 (inverse_sqrt: 0)",
       at_least(0)},
      {"decay_from", &decay_from, "wsd: the step to decay from, and to end decay_steps later",
       at_least(0)},
      {"weight_decay", &weight_decay, "decoupled weight decay of matrices", at_least(0)},
      {"max_gradient_norm", &max_gradient_norm, "clip the gradient's norm to this; 0: off",
       at_least(0)},
      {"adam_epsilon", &adam_epsilon, "AdamW's epsilon", above(0)},
      {"optimizer", &optimizer, "update rule", one_of(ops::optimizer_names())},
      {"beta1", &beta1, "decay of the gradient's average; SGD's momentum", between(0, 0.99999)},
      {"beta2", &beta2, "decay of its square's average; Lion: of its momentum",
       between(0, 0.99999)},
      {"muon_momentum", &muon_momentum, "Muon's, of hidden matrices; the others have AdamW",
       between(0, 0.99999)},
  };
}

OptimizerRules::Stretch OptimizerRules::last_stretch(int64_t num_steps) const {
  const int64_t tenth = std::max<int64_t>(num_steps / 10, 1);
  if (decay_from) return {*decay_from, decay_steps.value_or(num_steps - *decay_from)};
  const int64_t steps = decay_steps.value_or(tenth);
  return {num_steps - steps, steps};
}

void OptimizerRules::check(int64_t num_steps) const {
  if (decay_from && lr_decay != "wsd") {
    fail("decay_from: it is for lr_decay: wsd, not {}", lr_decay);
  }
  if (min_lr && *min_lr > learning_rate) {
    fail("min_lr: {} is above learning_rate {}", *min_lr, learning_rate);
  }
  if (lr_decay != "wsd") return;
  const auto [begin, steps] = last_stretch(num_steps);
  if (steps < 1) fail("decay_from: step {} is not before num_steps {}", begin, num_steps);
  if (begin < warmup_steps) {
    fail("decay_steps: the decay would begin at step {}, in the {} steps of warm-up", begin,
         warmup_steps);
  }
}

int64_t OptimizerRules::run_length(int64_t num_steps) const {
  if (!decay_from) return num_steps;
  const auto [begin, steps] = last_stretch(num_steps);
  return begin + std::max<int64_t>(steps, 0);
}

double OptimizerRules::learning_rate_at(int64_t step, int64_t num_steps) const {
  if (step < warmup_steps) return learning_rate * double(step) / double(warmup_steps);
  if (lr_decay == "constant") return learning_rate;
  if (lr_decay == "inverse_sqrt") {
    const double warm = double(std::max<int64_t>(warmup_steps, 1));
    return std::max(min_lr.value_or(0),
                    learning_rate * std::sqrt(warm / std::max(double(step), warm)));
  }
  const Stretch all = {warmup_steps,
                       decay_steps.value_or(std::max<int64_t>(num_steps - warmup_steps, 1))};
  const auto [begin, steps] = lr_decay == "wsd" ? last_stretch(num_steps) : all;
  const double t = std::clamp(double(step - begin) / double(steps), 0.0, 1.0);
  const double left = lr_decay == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * t)) : 1 - t;
  const double least = min_lr.value_or(0.1 * learning_rate);
  return least + (learning_rate - least) * left;
}

Update OptimizerRules::update_at(int64_t step, int64_t num_steps, int64_t seed) const {
  return {.rule = {ops::find_optimizer(optimizer),
                   {beta1, beta2, adam_epsilon, weight_decay, muon_momentum},
                   uint64_t(seed)},
          .lr = learning_rate_at(step, num_steps),
          .max_norm = max_gradient_norm,
          .step = step + 1};
}

}  // namespace gigagpt::engine
