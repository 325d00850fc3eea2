// What a layer's parameters are, as plain data: enough to plan, initialise, store and name them
// without LibTorch; and how a layer declares them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/stored_weights.h"
#include "ops/optimizer.h"

namespace gigagpt::engine {

// The normal distribution of a parameter's initial values.
struct Init {
  double mean = 0;
  double deviation = 0;
};
inline Init normal(double deviation) {
  return {0, deviation};
}
inline Init constant(double value) {
  return {value, 0};
}

// How a parameter begins, is multiplied, is updated and is stored.
struct ParamRule {
  Init init = {};
  bool looked_up = false;  // its own layer only looks up rows of it, so that few get a gradient
  bool output = false;     // what it makes goes to no other layer, as that of logits
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
  // Whether it maps what layers pass on to what they pass on.
  bool is_hidden_matrix() const {
    return is_matrix() && !rule.looked_up && !rule.output && rule.per_token > 0;
  }
  ops::ParamFactors factors() const {
    ops::ParamFactors factors = rule.factors;
    if (!rule.decay.value_or(shape.size() >= 2)) factors.decay = 0;
    return factors;
  }
};

struct LayerSpec {
  std::string name;         // for messages: "embedding", "decoder.3"
  std::string prefix = {};  // put before each parameter's name: "decoder.3." or ""
  std::vector<ParamSpec> params = {};
  std::vector<std::string> shared = {};  // full names of other layers' parameters it uses (tied)

  // Floating-point operations of a forward pass beside the products with its matrices: for each
  // token, and for each pair of a query and a key that it attends to.
  double token_flops = 0;
  double pair_flops = 0;

  // In a checkpoint: the prefix there, and what is stored beside the parameters.
  std::optional<std::string> stored_prefix = {};  // null: its own
  std::vector<formats::StoredTensor> also_stored = {};

  // Numbers in fp32 for each token that a layer between the first and the last keeps for the
  // backward pass beside what its matrices take and give.
  double kept_floats = 0;
  int64_t window = 0;  // keys that a query attends to at most; 0: all up to its own
};

int64_t parameter_count(const std::vector<LayerSpec>& layers);

// Floating-point operations to train on one token of sequences of that length: three passes over
// every product, attention counted up to the diagonal, nothing counted twice for recomputation.
double train_flops_per_token(const std::vector<LayerSpec>& layers, int64_t sequence_length);

// The tensors of a checkpoint, in layer order: each parameter exactly once. Others may leave out a
// "transformer." or "model." at the beginning of their names. Throws Error for two of one name.
std::vector<formats::StoredTensor> stored_tensors(const std::vector<LayerSpec>& layers);

// A parameter as a layer's forward pass names it.
struct Param {
  size_t index = 0;     // among the layer's own, or among those that it shares
  bool shared = false;  // another layer's
};

// The parameters of a linear layer or a norm.
struct AffineParam {
  Param weight = {};
  std::optional<Param> bias = {};
};

// Declares a layer's parameters: a layer derives from it and has them as members.
class Declaration {
 public:
  const LayerSpec& spec() const { return spec_; }

 protected:
  explicit Declaration(LayerSpec spec) : spec_(std::move(spec)) {}

  Param add(std::string name, std::vector<int64_t> shape, ParamRule rule = {});
  // name.weight [out, in] and, if there is to be one, name.bias [out], zeros at first. The rule is
  // the weight's; its stored_name has no ".weight" either.
  AffineParam linear(const std::string& name, int64_t in, int64_t out, ParamRule rule,
                     bool bias = false);
  // name.weight [size], ones at first, and with a bias name.bias [size].
  AffineParam norm(const std::string& name, int64_t size, bool bias = false);
  // A parameter that a layer before this one has, by its full name.
  Param share(std::string full_name);
  // Zeros that checkpoints have beside the parameters; by its name there.
  void also_store(std::string name, std::vector<int64_t> shape);
  // What some checkpoints of other programs have besides, and must equal a parameter unless that is
  // "": see formats::StoredTensor.
  void others_store(std::string name, std::vector<int64_t> shape, std::string parameter = "");

  LayerSpec spec_;
};

// A declaration whose members are made of a configuration.
template <class Config>
class DeclarationOf : public Declaration {
 protected:
  DeclarationOf(const Config& config, LayerSpec spec) : Declaration(std::move(spec)), c(config) {}
  const Config c;
};

}  // namespace gigagpt::engine
