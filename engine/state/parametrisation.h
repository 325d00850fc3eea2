// What a model's parameters begin with, how fast they learn and what their products are multiplied
// by as its width and depth grow. This is the one place that decides it, for every family: a layer
// declares what its parameters are for, and says no more. There are three parametrisations:
//
//   standard    as GPT-2 has it
//   muP         the maximal update parametrisation (Yang et al. 2022, arXiv 2203.03466), in the
//               form that Cerebras-GPT has (Dey et al. 2023, arXiv 2304.03208): what is best for a
//               narrow model is best for wide ones
//   CompleteP   muP that holds for the depth as well (Dey et al. 2025, arXiv 2505.01618)
//
// With m = width / mup_base_width and n = depth / mup_base_depth (CompleteP):
//
//                       initial deviation         learning rate   times   AdamW's epsilon
//   embeddings          s                         1               e       1  (CompleteP 1 / m)
//   hidden matrices     s / sqrt(m)               m^power         1       1  (CompleteP 1 / (m n))
//   ends of branches    s / sqrt(2 L m)           m^power         1       1
//     in CompleteP      s / sqrt(m)               m^power         1 / n   1 / (m n)
//   vectors             -                         1               1       1  (CompleteP 1 / (m n))
//   logits              s (if not tied)           1               o / m   1  (CompleteP 1 / m)
//
// s is init_std, e embedding_multiplier, o output_multiplier; `power` is the optimizer's, -1 for
// AdamW. Attention's scores are divided by the size of a head instead of its root. CompleteP also
// divides the weight decay of hidden matrices by what their learning rate is multiplied by, so that
// it takes as much of a weight in a step at any width.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/option.h"
#include "engine/state/param_spec.h"

namespace gigagpt::engine {

// The parametrisation of a model of one size. By default it decides nothing: what is drawn is what
// a declaration says, and all else is 1.
struct Parametrisation {
  // Deviations of the initial values, and where they are cut, in deviations (0: nowhere).
  double embedding_std = 0, hidden_std = 0, branch_std = 0;
  double cut = 0;
  // Multipliers of embeddings, of logits and of residual branches.
  double embedding = 1, output = 1, branch = 1;
  // Of the updates of hidden matrices.
  double rate = 1, decay = 1;
  // Of the optimizer's epsilon, in blocks and elsewhere.
  double block_epsilon = 1, epsilon = 1;
  bool over_size = false;  // attention's scores are divided by the size of a head

  // Whether a model with these weights gives the same outputs in other programs.
  bool is_plain() const { return embedding == 1 && output == 1 && branch == 1 && !over_size; }
  // Sets what the parameter's rule leaves open.
  void apply(ParamSpec& param, bool in_block) const;
};

// The parts of muP that a coordinate check can leave out, to see what a mistake looks like.
const std::vector<std::string>& parts_of_mup();

// Config keys.
struct ParametrisationRules {
  std::string init = "normal";
  double init_std = 0.02;
  std::optional<double> residual_init_std = {};
  std::optional<int64_t> mup_base_width = {};
  std::optional<int64_t> mup_base_depth = {};
  double embedding_multiplier = 1;
  double output_multiplier = 1;

  // They point into this object. Those of the model are what its outputs depend on.
  std::vector<Option> options();
  std::vector<Option> model_options();

  // Throws Error for values that do not go together, or with that optimizer.
  void check(const ops::Optimizer& optimizer) const;

  Parametrisation at(int64_t width, int64_t depth, const ops::Optimizer& optimizer) const;
};

}  // namespace gigagpt::engine
