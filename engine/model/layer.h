// The seam between a model and the engine: a model is an ordered list of layers, and a layer is a
// pure function of its weights and its input. It holds no weights itself, so the engine can keep
// them wherever it likes and hand them over for one visit at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/state/layer_spec.h"
#include "ops/kv_cache.h"
#include "ops/weight.h"

namespace gigagpt::engine {

// The parameters of one layer, valid for one visit. Own ones go by their name within the layer,
// shared ones by their full name.
class Weights {
 public:
  void add(std::string name, ops::Weight weight);
  const ops::Weight& operator[](std::string_view name) const;  // asserts that it exists
  // `name`.weight and, if the layer has one, `name`.bias.
  ops::Affine affine(const std::string& name) const;
  // What the layer's matrices are multiplied in: fp32 or bf16.
  at::ScalarType dtype() const;
  using List = std::vector<std::pair<std::string, ops::Weight>>;
  const List& all() const { return all_; }

 private:
  List::const_iterator find(std::string_view name) const;
  List all_;
};

// One micro-batch: what the first layer takes, what the last one compares with (undefined: it
// returns its prediction), and what mask the layers look at (undefined: their default).
struct MicroBatch {
  at::Tensor input;
  at::Tensor target = {};
  at::Tensor mask = {};
};

// What a layer is told about the pass it takes part in.
struct Pass {
  const MicroBatch& batch;
  bool training = false;  // dropout applies
  uint64_t key = 0;  // for randomness: differs per seed, step and micro-batch; a layer mixes in
                     // its own place
  ops::KVCache* cache = nullptr;  // this layer's, when the batch continues earlier positions
  int64_t position = 0;           // of the batch's first token, counted from those
};

class Layer {
 public:
  explicit Layer(LayerSpec spec) : spec_(std::move(spec)) {}
  virtual ~Layer() = default;
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  const LayerSpec& spec() const { return spec_; }

  // The first layer's x is pass.batch.input; given a target, the last one returns the mean loss, a
  // scalar. Must not change x or the weights, and must return the same bits for the same arguments.
  virtual at::Tensor forward(const Weights& w, const at::Tensor& x, const Pass& pass) const = 0;

 private:
  LayerSpec spec_;
};

// Told the done share of some work, from 0 as it begins to 1; false abandons it where it can be.
using Progress = std::function<bool(double)>;

using Model = std::vector<std::unique_ptr<Layer>>;

std::vector<LayerSpec> specs_of(const Model& model);

}  // namespace gigagpt::engine
