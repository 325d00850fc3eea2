// A plain run of a whole model through plain autograd, the reference that every way of running it
// layer by layer must equal bit for bit in fp32. For tests and checks.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <span>
#include <string>

#include "base/random.h"
#include "engine/model/layer.h"
#include "engine/state/layout.h"

namespace gigagpt::engine {

// The parameters of a layer in fp32, each as `value_of` makes it of its full name.
template <class ValueOf>
Weights weights_by_name(const LayerSpec& spec, const ValueOf& value_of) {
  Weights weights(at::kFloat, spec.params.size());
  for (const ParamSpec& param : spec.params)
    weights.add({value_of(spec.prefix + param.name), nullptr, param.rule.multiplier});
  for (const auto& [name, multiplier] : spec.shared)
    weights.add({value_of(name), nullptr, multiplier});
  return weights;
}

struct OracleResult {
  double loss = 0;
  std::map<std::string, double> added_losses = {};  // means over the step
  std::map<std::string, at::Tensor> grads = {};     // by full name
};

// By full name, from the gradients by layer and use.
inline std::map<std::string, at::Tensor> sums_of_uses(
    const Model& model, const std::map<std::pair<size_t, std::string>, at::Tensor>& uses) {
  std::map<std::string, at::Tensor> grads;
  for (size_t i = 0; i < model.size(); ++i) {
    for (const auto& param : model[i]->spec().params) {
      const std::string name = model[i]->spec().prefix + param.name;
      grads[name] = uses.at({i, name});
    }
  }
  for (size_t i = 0; i < model.size(); ++i) {
    for (const auto& [name, _] : model[i]->spec().shared) grads.at(name).add_(uses.at({i, name}));
  }
  return grads;
}

// The loss and gradients of all micro-batches with the given master weights (by full name). A
// parameter that several layers share is one leaf per use: their gradients are added at the end.
inline OracleResult run_oracle(const Model& model, const std::map<std::string, at::Tensor>& values,
                               std::span<const MicroBatch> batches, uint64_t key) {
  OracleResult result;
  double weights = 0;
  for (const MicroBatch& batch : batches) weights += batch.weight();
  std::map<std::pair<size_t, std::string>, at::Tensor> sums;   // per layer and use
  std::map<std::pair<size_t, std::string>, double> loss_sums;  // that layers add
  for (size_t m = 0; m < batches.size(); ++m) {
    std::map<std::pair<size_t, std::string>, at::Tensor> leaves;
    at::Tensor x = batches[m].input;
    std::vector<AddedLoss> losses;
    std::vector<size_t> layers_of_losses;
    Pass pass{batches[m], /*training=*/true, mix(key, m)};
    pass.losses = &losses;
    for (size_t i = 0; i < model.size(); ++i) {
      const LayerSpec& spec = model[i]->spec();
      const Weights weights = weights_by_name(spec, [&](const std::string& name) {
        return leaves[{i, name}] = values.at(name).detach().requires_grad_(true);
      });
      const size_t before = losses.size();
      x = model[i]->forward(weights, x, pass);
      for (size_t n = before; n < losses.size(); ++n) layers_of_losses.push_back(i);
    }
    const double share = batches[m].weight() / weights;
    result.loss += share * x.item<double>();
    std::vector<at::Tensor> outputs = {x}, scales = {at::scalar_tensor(share, x.options())};
    for (size_t n = 0; n < losses.size(); ++n) {
      const AddedLoss& loss = losses[n];
      loss_sums[{layers_of_losses[n], loss.name}] += share * loss.value.item<double>();
      if (!loss.value.requires_grad()) continue;
      outputs.push_back(loss.value);
      scales.push_back(at::scalar_tensor(share * loss.factor, loss.value.options()));
    }
    std::vector<at::Tensor> inputs;
    for (const auto& [_, leaf] : leaves) inputs.push_back(leaf);
    const auto grads = torch::autograd::grad(outputs, inputs, scales, /*retain_graph=*/false,
                                             /*create_graph=*/false, /*allow_unused=*/true);
    size_t next = 0;
    for (const auto& [use, leaf] : leaves) {
      at::Tensor& sum = sums[use];
      if (!sum.defined()) sum = at::zeros(leaf.sizes(), at::kFloat);
      if (grads[next].defined()) sum.add_(grads[next]);
      ++next;
    }
  }
  for (const auto& [use, loss] : loss_sums) result.added_losses[use.second] += loss;
  result.grads = sums_of_uses(model, sums);
  return result;
}

// What a store keeps of a parameter, in its shape.
template <class Store>
at::Tensor tensor_of(Store& store, Array kept, const std::string& name) {
  std::vector<float> values = store.read(kept, name);
  const auto shape = store.form().kept_shape(store.param(name), kept);
  return at::from_blob(values.data(), shape, at::kFloat).clone();
}

// Every master weight of a store as a tensor of its own.
template <class Store>
std::map<std::string, at::Tensor> copy_values(Store& store) {
  std::map<std::string, at::Tensor> values;
  for (size_t i = 0; i < store.layer_count(); ++i) {
    for (const ParamSpec& param : store.layer(i).params) {
      const std::string name = store.layer(i).prefix + param.name;
      values[name] = tensor_of(store, Array::kMaster, name);
    }
  }
  return values;
}

}  // namespace gigagpt::engine
