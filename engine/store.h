// Where a model's state lives: per layer, fp32 master weights, the copy that is multiplied, fp32
// gradients and the optimizer's moments.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/layer.h"
#include "ops/optimizer.h"

namespace gigagpt::engine {

enum class Precision { kFp32, kBf16 };

// From "fp32", "bf16" or "auto": bf16 where this CPU multiplies it natively.
Precision choose_precision(const std::string& wanted);
const char* precision_name(Precision precision);
// The rate of large products in that precision on this machine (ops/gemm.h), in FLOP/s.
double measure_peak_flops(Precision precision);

// What is kept of a parameter beside the gradient.
enum class Kept { kMaster, kExpAvg, kExpAvgSq };

// A store in RAM. Use from one thread.
class Store {
 public:
  // `training` reserves gradients and moments too; everything starts as zeros.
  Store(std::vector<LayerSpec> layers, Precision precision, bool training);

  size_t layer_count() const { return layers_.size(); }
  const LayerSpec& layer(size_t i) const { return layers_[i].spec; }
  Precision precision() const { return precision_; }

  // Draws every parameter from its initial distribution: a function of (seed, full name) alone.
  void initialise(uint64_t seed, const Progress& progress);

  // The layer's parameters for one visit. With `gradients`, values ask autograd for gradients and
  // the ops' are added to the layer's accumulators; a shared parameter has one of its own per use.
  Weights weights(size_t layer, bool gradients);

  // Once a step, before and after its micro-batches: what follows overwrites the gradients; those
  // of shared uses are added to the parameters they belong to, and what got none is zero.
  void forget_gradients();
  void finish_gradients();
  double gradient_square_sum(size_t layer) const;

  // One optimizer step of a layer with gradients scaled by `grad_scale`; `step` counts from 1.
  // Parameters with fewer than two dimensions do not decay.
  void update(size_t layer, const ops::UpdateRule& rule, double lr, double grad_scale,
              int64_t step);

  bool contains(const std::string& name) const { return places_.contains(name); }
  const ParamSpec& param(const std::string& name) const;
  std::span<float> values(Kept kept, const std::string& name);
  std::span<float> gradient(const std::string& name);
  // Must follow a change of master weights through values().
  void refresh_compute_weights(size_t layer);

 private:
  struct Place {
    size_t layer;
    size_t param;
  };
  struct LayerState {
    LayerSpec spec;
    std::vector<int64_t> offsets;  // of each parameter in the arrays below, in elements
    int64_t size = 0;              // elements, padded
    at::Tensor master, grad, exp_avg, exp_avg_sq;  // [size] fp32
    at::Tensor compute;                            // [size] bf16, only in Precision::kBf16
    std::vector<at::Tensor> values;                // per parameter: the view that is multiplied
    std::vector<ops::GradientSum> grads;           // per parameter, views of `grad`
    std::vector<ops::GradientSum> lookups;         // per parameter: rows of one that is looked up
    // Per shared use: with memory of its own, or the sum in `grads` if the parameter is looked up.
    std::vector<ops::GradientSum> shared_grads;
    std::vector<ops::GradientSum*> shared_uses;
  };

  void make_gradients();
  const Place& place(const std::string& name) const;
  at::Tensor view(const at::Tensor& array, Place place) const;  // the parameter's part, in shape
  std::span<float> span_of(const at::Tensor& array, Place place) const;

  Precision precision_;
  std::vector<LayerState> layers_;
  std::map<std::string, Place> places_;
};

}  // namespace gigagpt::engine
