#include "engine/state/parametrisation.h"

#include <cmath>

#include "base/error.h"

namespace gigagpt::engine {

void Parametrisation::apply(ParamSpec& param, bool in_block) const {
  ParamRule& rule = param.rule;
  const bool vector = param.shape.size() < 2, hidden = param.is_hidden();
  const double std = vector             ? 0
                     : !hidden          ? embedding_std
                     : rule.ends_branch ? branch_std
                                        : hidden_std;
  if (!rule.init) rule.init = Init{0, std, cut};
  rule.factors.epsilon *= in_block ? block_epsilon : epsilon;
  if (rule.ends_branch) rule.multiplier *= branch;
  if (rule.looked_up || rule.per_token == 0) rule.multiplier *= embedding;
  if (rule.output) rule.multiplier *= output;
  if (!hidden) return;
  rule.factors.rate *= rate;
  rule.factors.decay *= decay;
}

const std::vector<std::string>& parts_of_mup() {
  static const std::vector<std::string> parts = {"initialisation", "rates", "logits"};
  return parts;
}

std::vector<Option> ParametrisationRules::options() {
  return {
      {"init", &init, "distribution of the initial weights; truncated: within two deviations",
       one_of({"normal", "truncated_normal"})},
      {"init_std", &init_std, "standard deviation of the initial weights", above(0)},
      {"residual_init_std", &residual_init_std,
       "of the last ones in residual branches; null: init_std/sqrt(2L)", above(0)},
  };
}

std::vector<Option> ParametrisationRules::model_options() {
  return {
      {"mup_base_width", &mup_base_width,
       "muP: the width that init_std and learning_rate are for; null: off", between(1, 1 << 18)},
      {"mup_base_depth", &mup_base_depth, "CompleteP: the depth that they are for; null: off",
       between(1, 1 << 18)},
      {"embedding_multiplier", &embedding_multiplier, "of the embeddings' sum", above(0)},
      {"output_multiplier", &output_multiplier, "of the logits, besides muP's", above(0)},
  };
}

void ParametrisationRules::check(const ops::Optimizer& optimizer) const {
  if (mup_base_depth && !mup_base_width)
    fail("mup_base_depth: it needs mup_base_width, the width that the learning rate is for");
  if (mup_base_depth && residual_init_std)
    fail("residual_init_std: with mup_base_depth it is init_std");
  if (mup_base_width && !optimizer.mup_power)
    fail("mup_base_width: there is no rule for optimizer: {}; it is known for {}", optimizer.name,
         "adafactor, adamw, lion and muon");
}

Parametrisation ParametrisationRules::at(int64_t width, int64_t depth,
                                         const ops::Optimizer& optimizer) const {
  const auto L = double(depth);
  const double m = mup_base_width ? double(width) / double(*mup_base_width) : 1;
  const double n = mup_base_depth ? L / double(*mup_base_depth) : 1;
  Parametrisation p;
  p.embedding_std = init_std;
  p.hidden_std = init_std / std::sqrt(m);
  p.branch_std = residual_init_std.value_or(init_std / std::sqrt(2 * L)) / std::sqrt(m);
  p.cut = init == "truncated_normal" ? 2 : 0;
  p.embedding = embedding_multiplier;
  p.output = output_multiplier / m;
  p.over_size = mup_base_width.has_value();
  p.rate = std::pow(m, optimizer.mup_power.value_or(0));
  if (mup_base_depth) {
    p.branch_std = p.hidden_std;
    p.branch = 1 / n;
    p.decay = 1 / p.rate;
    p.epsilon = 1 / m;
    p.block_epsilon = 1 / (m * n);
  }
  return p;
}

}  // namespace gigagpt::engine
