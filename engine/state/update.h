// The optimizer step that a training step's gradients are for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/option.h"
#include "ops/optimizer.h"

namespace gigagpt::engine {

struct Update {
  ops::UpdateRule rule = {};
  double lr = 0;
  double max_norm = 1;    // gradients of a larger norm are scaled down to it; 0: none are
  int64_t step = 0;       // counts from 1
  double grad_scale = 1;  // multiplies the gradients; known once their norm is

  // The update as it is made with gradients of that norm.
  Update scaled_for(double norm) const {
    Update update = *this;
    update.grad_scale = max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
    return update;
  }
};

// What a user may say of the updates: config keys.
struct OptimizerRules {
  double learning_rate = 6e-4;
  int64_t warmup_steps = 1500;
  std::optional<int64_t> decay_steps = {};
  std::string lr_decay = "cosine";
  std::optional<double> min_lr = {};
  std::optional<int64_t> decay_from = {};
  std::string optimizer = "adamw";
  double weight_decay = 0.1;
  double max_gradient_norm = 1.0;
  double adam_epsilon = 1e-8;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double muon_momentum = 0.95;

  std::vector<Option> options();  // they point into this object

  // Throws Error for a schedule that a run of so many steps cannot have.
  void check(int64_t num_steps) const;
  // How long a run that is to have so many steps is: with decay_from it ends with the decay.
  int64_t run_length(int64_t num_steps) const;
  // The learning rate of a step, counted from 0, of a run of so many.
  double learning_rate_at(int64_t step, int64_t num_steps) const;
  // The update that is due then.
  Update update_at(int64_t step, int64_t num_steps, int64_t seed) const;

 private:
  // Where the decay of wsd begins, and how many steps it takes.
  struct Stretch {
    int64_t begin, steps;
  };
  Stretch last_stretch(int64_t num_steps) const;
};

}  // namespace gigagpt::engine
