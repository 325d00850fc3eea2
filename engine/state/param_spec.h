// What one parameter of a layer is, as plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/optimizer.h"

namespace gigagpt::engine {

// The normal distribution of a parameter's initial values. With a cut all are within so many
// deviations of the mean.
struct Init {
  double mean = 0;
  double deviation = 0;
  double cut = 0;
};
inline Init normal(double deviation) {
  return {0, deviation, 0};
}
inline Init constant(double value) {
  return {value, 0, 0};
}

// How a parameter begins, is multiplied, is updated and is stored.
struct ParamRule {
  std::optional<Init> init = {};  // null: as the parametrisation says; vectors begin at zero
  bool looked_up = false;    // its own layer only looks up rows of it, so that few get a gradient
  bool output = false;       // what it makes goes to no other layer, as that of logits
  bool ends_branch = false;  // what it makes is added to the residual stream
  double multiplier = 1;     // of what it makes (ops/weight.h)
  std::optional<bool> decay = {};  // by weight_decay; null: if it has two or more dimensions
  // What its updates take of the learning rate, the weight decay and the optimizer's epsilon.
  ops::ParamFactors factors = {};
  bool fp32 = false;               // is used in fp32, whatever products are made in
  double per_token = 1;            // share of the tokens that are multiplied by it; 0: none is
  std::string stored_name = {};    // in a checkpoint, within its layer; "": its own
  bool stored_transposed = false;  // a checkpoint has it as [in, out]
};

struct ParamSpec {
  std::string name;  // within its layer, e.g. "attn.proj_qkv.weight"
  std::vector<int64_t> shape;
  ParamRule rule = {};

  int64_t count() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
  // Whether it is multiplied in the precision of products; vectors are always in fp32.
  bool is_matrix() const { return shape.size() >= 2 && !rule.fp32; }
  Init init() const { return rule.init.value_or(Init()); }
  // Whether it maps what layers pass on to what they pass on, in whichever precision.
  bool is_hidden() const {
    return shape.size() >= 2 && !rule.looked_up && !rule.output && rule.per_token > 0;
  }
  bool is_hidden_matrix() const { return is_hidden() && !rule.fp32; }
  ops::ParamFactors factors() const {
    ops::ParamFactors factors = rule.factors;
    if (!rule.decay.value_or(shape.size() >= 2)) factors.decay = 0;
    return factors;
  }
};

}  // namespace gigagpt::engine
