// The seam between a model and the engine: a model is an ordered list of layers, and a layer is a
// pure function of its weights and its input. It holds no weights itself, so the engine can keep
// them wherever it likes and hand them over for one visit at a time.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/state/layer_spec.h"
#include "ops/attention_rule.h"
#include "ops/memory.h"
#include "ops/weight.h"

namespace gigagpt::engine {

// The parameters of one layer, valid for one visit: its own, then those that it shares.
class Weights {
 public:
  Weights() = default;
  // `type` is what matrices are multiplied in, fp32 or bf16; so many parameters are the layer's
  // own.
  Weights(at::ScalarType type, size_t own) : type_(type), own_(own) {}
  void add(ops::Weight weight) { all_.push_back(std::move(weight)); }

  const ops::Weight& operator[](Param param) const {
    return all_[param.shared ? own_ + param.index : param.index];
  }
  ops::Affine operator[](const AffineParam& param) const {
    return {(*this)[param.weight], param.bias ? (*this)[*param.bias] : ops::Weight()};
  }
  at::ScalarType dtype() const { return type_; }
  const std::vector<ops::Weight>& all() const { return all_; }

 private:
  at::ScalarType type_ = at::kFloat;
  size_t own_ = 0;
  std::vector<ops::Weight> all_;
};

// One micro-batch: what the first layer takes, what the last one compares with (undefined: it
// returns its prediction), and what mask the layers look at (undefined: their default).
struct MicroBatch {
  at::Tensor input;
  at::Tensor target = {};
  at::Tensor mask = {};
  at::Tensor documents = {};  // [B, T] int64: where in its row, or with a layer's memory in its
                              // text, the document of each token begins; undefined: at 0
  at::Tensor positions = {};  // [B, T] int64, of the tokens in their texts; undefined: from 0 on
  std::optional<double> counted = {};  // labels that the mean loss is of; null: a row is one
  double weight() const { return counted.value_or(double(input.size(0))); }
};

// A term of the loss that a layer adds to what the last one returns.
struct AddedLoss {
  std::string name;  // in the metrics
  at::Tensor value;  // a scalar, of one micro-batch
  double factor;     // in what is minimised
};

// What a layer is told about the pass it takes part in.
struct Pass {
  const MicroBatch& batch;
  bool training = false;  // dropout applies
  uint64_t key = 0;  // for randomness: differs per seed, step and micro-batch; a layer mixes in
                     // its own place
  bool last_only = false;         // the last layer predicts what follows the last position alone
  ops::Memory* memory = nullptr;  // this layer's, where the batch continues an earlier one
  std::vector<AddedLoss>* losses = nullptr;  // null where nothing is minimised

  // Adds a term to the loss: the mean over the step, weighted as the loss is, times `factor` is
  // minimised, and the mean is in the metrics under `name`.
  void add_loss(const char* name, const at::Tensor& value, double factor) const {
    if (losses != nullptr) losses->push_back({name, value, factor});
  }
  // A probability of dropout, which only training has.
  double dropout(double p) const { return training ? p : 0; }
  // A key for the random numbers of one place in a layer.
  uint64_t key_of(const LayerSpec& layer, uint64_t place) const;
  // How so many heads of the layer attend: to what the micro-batch lets a token see, with dropout
  // of that place.
  ops::AttentionRule attention_rule(const LayerSpec& layer, int64_t heads, double dropout_p = 0,
                                    uint64_t place = 0) const;
};

class Layer {
 public:
  Layer() = default;
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  virtual const LayerSpec& spec() const = 0;

  // The first layer's x is pass.batch.input; given a target, the last one returns the mean loss, a
  // scalar. Must not change x or the weights, and must return the same bits for the same arguments.
  virtual at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const = 0;
};

// A layer with declared parameters: those of a declaration, or with Declaration itself those that
// the layer's own constructor adds.
template <class Declared>
class LayerOf : public Layer, public Declared {
 public:
  using Declared::Declared;
  const LayerSpec& spec() const override { return Declared::spec(); }
};

// Told the done share of some work, from 0 as it begins to 1; false abandons it where it can be.
using Progress = std::function<bool(double)>;

using Model = std::vector<std::unique_ptr<Layer>>;

// An embedding, so many blocks and a head, each made of the configuration, blocks of their number
// too.
template <class Embedding, class Block, class Head, class Config>
Model make_layers(const Config& config, int64_t depth) {
  Model model;
  model.push_back(std::make_unique<Embedding>(config));
  for (int64_t i = 0; i < depth; ++i) model.push_back(std::make_unique<Block>(config, i));
  model.push_back(std::make_unique<Head>(config));
  return model;
}

std::vector<LayerSpec> specs_of(const Model& model);

}  // namespace gigagpt::engine
