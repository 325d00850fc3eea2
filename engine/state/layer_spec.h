// What a layer is, as plain data: enough to plan, initialise, store and name its parameters without
// LibTorch; and how a layer declares them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/state/param_spec.h"
#include "engine/state/parametrisation.h"
#include "formats/stored_weights.h"

namespace gigagpt::engine {

// A use of another layer's parameter, by its full name, with a multiplier of its own.
struct SharedParam {
  std::string name;
  double multiplier = 1;
  bool operator==(const SharedParam&) const = default;
};

// Rows of a parameter.
struct QueryRows {
  std::string param = {};  // without ".weight"
  int64_t rows = 0;
};

struct LayerSpec {
  std::string name;         // for messages: "embedding", "decoder.3"
  std::string prefix = {};  // put before each parameter's name: "decoder.3." or ""
  std::vector<ParamSpec> params = {};
  std::vector<SharedParam> shared = {};  // other layers' parameters that it uses (tied)

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

  // Its attention: whose product's first rows the queries are (all, if it has no more), and whether
  // scores are divided by the size of a head (muP) instead of its root.
  QueryRows queries = {};
  bool over_size = false;

  // One of several layers alike, whose parameters' names need a prefix: what it makes is added to
  // what it is given.
  bool is_block() const { return !prefix.empty(); }
};

// A parameter by its full name, and the layer whose own it is. Throws Error if there is none.
struct FoundParam {
  const LayerSpec& layer;
  const ParamSpec& param;
};
FoundParam find_param(const std::vector<LayerSpec>& layers, const std::string& name);

int64_t parameter_count(const std::vector<LayerSpec>& layers);

// Floating-point operations to train on one token of sequences of that length: three passes over
// every product, attention counted up to the diagonal, nothing counted twice for recomputation.
double train_flops_per_token(const std::vector<LayerSpec>& layers, int64_t sequence_length);

// The tensors of a checkpoint, in layer order: each parameter exactly once. Others may leave out a
// "transformer." or "model." at the beginning of their names. Throws Error for two of one name.
std::vector<formats::StoredTensor> stored_tensors(const std::vector<LayerSpec>& layers);

// The same as other programs want it: without multipliers, and where scores are divided by the size
// of a head, with queries times `query_factor`. A tied parameter whose uses have other multipliers
// becomes two tensors. Throws Error if others have no name for the second.
std::vector<formats::FoldedTensor> folded_tensors(const std::vector<LayerSpec>& layers,
                                                  double query_factor);

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

// Declares a layer's parameters: a layer derives from it and has them as members. What their rules
// leave open is as the parametrisation says.
class Declaration {
 public:
  const LayerSpec& spec() const { return spec_; }

 protected:
  explicit Declaration(LayerSpec spec, const Parametrisation& parametrisation = {})
      : spec_(std::move(spec)), parametrisation_(parametrisation) {
    spec_.over_size = parametrisation_.over_size;
  }

  Param add(std::string name, std::vector<int64_t> shape, ParamRule rule = {});
  // name.weight [out, in] and, if there is to be one, name.bias [out], zeros at first. The rule is
  // the weight's; its stored_name has no ".weight" either.
  AffineParam linear(const std::string& name, int64_t in, int64_t out, ParamRule rule = {},
                     bool bias = false);
  // name.weight [size], ones at first, and with a bias name.bias [size].
  AffineParam norm(const std::string& name, int64_t size, bool bias = false);
  // A parameter that a layer before this one has, by its full name; the rule is that of this use.
  Param share(std::string full_name, const ParamRule& rule = {});
  // Zeros that checkpoints have beside the parameters; by its name there.
  void also_store(std::string name, std::vector<int64_t> shape);
  // What some checkpoints of other programs have besides, and must equal a parameter unless that is
  // "": see formats::StoredTensor.
  void others_store(std::string name, std::vector<int64_t> shape, std::string parameter = "");

  LayerSpec spec_;

 private:
  Parametrisation parametrisation_;
};

// A declaration whose members are made of a configuration, which may have a parametrisation.
template <class Config>
class DeclarationOf : public Declaration {
 protected:
  DeclarationOf(const Config& config, LayerSpec spec)
      : Declaration(std::move(spec), parametrisation_of(config)), c(config) {}
  const Config c;

 private:
  static Parametrisation parametrisation_of(const Config& config) {
    if constexpr (requires { config.parametrised(); }) return config.parametrised();
    return {};
  }
};

}  // namespace gigagpt::engine
