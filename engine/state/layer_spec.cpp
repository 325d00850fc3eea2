#include "engine/state/layer_spec.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"

namespace gigagpt::engine {

int64_t parameter_count(const std::vector<LayerSpec>& layers) {
  int64_t total = 0;
  for (const LayerSpec& layer : layers) {
    for (const ParamSpec& param : layer.params) total += param.count();
  }
  return total;
}

namespace {

// Keys that a query attends to, in the mean over a sequence.
double attended(int64_t sequence_length, int64_t window) {
  const auto T = double(sequence_length);
  const double W = window > 0 && window < sequence_length ? double(window) : T;
  return (W * (W + 1) / 2 + (T - W) * W) / T;
}

}  // namespace

double train_flops_per_token(const std::vector<LayerSpec>& layers, int64_t sequence_length) {
  std::map<std::string, double> counts;  // of all parameters, by full name
  double flops = 0;
  for (const LayerSpec& layer : layers) {
    flops += layer.token_flops + layer.pair_flops * attended(sequence_length, layer.window);
    for (const ParamSpec& param : layer.params) {
      const auto count = double(param.count());
      counts[layer.prefix + param.name] = count;
      const bool multiplied = param.shape.size() >= 2 && !param.rule.looked_up;
      if (multiplied) flops += 2 * param.rule.per_token * count;
    }
    for (const SharedParam& use : layer.shared) flops += 2 * counts.at(use.name);
  }
  return 3 * flops;
}

std::vector<formats::StoredTensor> stored_tensors(const std::vector<LayerSpec>& layers) {
  std::vector<formats::StoredTensor> tensors, foreign;
  std::set<std::string> names;
  const auto add = [&](const LayerSpec& layer, formats::StoredTensor tensor) {
    if (!names.insert(tensor.name).second) {
      fail("model: layer {} has a second tensor that checkpoints would call {}", layer.name,
           tensor.name);
    }
    for (const std::string base : {"transformer.", "model."}) {
      if (tensor.name.starts_with(base)) tensor.other_name = tensor.name.substr(base.size());
    }
    (tensor.foreign ? foreign : tensors).push_back(std::move(tensor));
  };
  for (const LayerSpec& layer : layers) {
    for (const ParamSpec& param : layer.params) {
      const std::string name = layer.prefix + param.name;
      auto shape = param.shape;
      if (param.rule.stored_transposed) std::reverse(shape.begin(), shape.end());
      const std::string& theirs = param.rule.stored_name;
      add(layer,
          {layer.stored_prefix.value_or(layer.prefix) + (theirs.empty() ? param.name : theirs),
           shape, name, param.rule.stored_transposed});
    }
    for (const auto& tensor : layer.also_stored) add(layer, tensor);
  }
  tensors.insert(tensors.end(), foreign.begin(), foreign.end());
  return tensors;
}

FoundParam find_param(const std::vector<LayerSpec>& layers, const std::string& name) {
  for (const LayerSpec& layer : layers) {
    for (const ParamSpec& param : layer.params) {
      if (layer.prefix + param.name == name) return {layer, param};
    }
  }
  fail("model: there is no parameter {}", name);
}

namespace {

// Other programs' name for a use of a parameter of its own, within that layer.
std::string name_of_use(const LayerSpec& layer, const std::string& param) {
  for (const formats::StoredTensor& tensor : layer.also_stored) {
    if (tensor.foreign && tensor.parameter == param) return tensor.name;
  }
  fail(
      "model: layer {} multiplies {} by something else than its own layer does, and other programs "
      "have no name for that",
      layer.name, param);
}

}  // namespace

std::vector<formats::FoldedTensor> folded_tensors(const std::vector<LayerSpec>& layers,
                                                  double query_factor) {
  std::vector<formats::FoldedTensor> folded;
  for (const formats::StoredTensor& tensor : stored_tensors(layers)) {
    if (tensor.foreign) continue;
    folded.push_back({tensor, tensor.name});
    if (tensor.parameter.empty()) continue;
    const auto [layer, param] = find_param(layers, tensor.parameter);
    folded.back().factor = param.rule.multiplier;
    const bool queries = layer.over_size && !layer.queries.param.empty() &&
                         param.name.starts_with(layer.queries.param + ".");
    if (queries) folded.back().query_rows = layer.queries.rows;
    folded.back().query_factor = query_factor;
  }
  for (const LayerSpec& layer : layers) {
    for (const SharedParam& use : layer.shared) {
      if (find_param(layers, use.name).param.rule.multiplier == use.multiplier) continue;
      const auto own = std::ranges::find_if(
          folded, [&](const auto& tensor) { return tensor.from.parameter == use.name; });
      folded.push_back({own->from, name_of_use(layer, use.name), use.multiplier});
    }
  }
  return folded;
}

Param Declaration::add(std::string name, std::vector<int64_t> shape, ParamRule rule) {
  spec_.params.push_back({std::move(name), std::move(shape), std::move(rule)});
  parametrisation_.apply(spec_.params.back(), spec_.is_block());
  return {spec_.params.size() - 1};
}

AffineParam Declaration::linear(const std::string& name, int64_t in, int64_t out, ParamRule rule,
                                bool bias) {
  const std::string theirs = rule.stored_name.empty() ? name : rule.stored_name;
  rule.stored_name = theirs + ".weight";
  AffineParam affine{add(name + ".weight", {out, in}, std::move(rule))};
  ParamRule of_bias{.multiplier = spec_.params.back().rule.multiplier,
                    .stored_name = theirs + ".bias"};
  if (bias) affine.bias = add(name + ".bias", {out}, std::move(of_bias));
  return affine;
}

AffineParam Declaration::norm(const std::string& name, int64_t size, bool bias) {
  AffineParam affine{add(name + ".weight", {size}, {.init = constant(1)})};
  if (bias) affine.bias = add(name + ".bias", {size});
  return affine;
}

void Declaration::also_store(std::string name, std::vector<int64_t> shape) {
  spec_.also_stored.push_back({std::move(name), std::move(shape), ""});
}

void Declaration::others_store(std::string name, std::vector<int64_t> shape,
                               std::string parameter) {
  spec_.also_stored.push_back({std::move(name), std::move(shape), std::move(parameter)});
  spec_.also_stored.back().foreign = true;
}

Param Declaration::share(std::string full_name, const ParamRule& rule) {
  ParamSpec use{std::move(full_name), {1, 1}, rule};
  parametrisation_.apply(use, spec_.is_block());
  spec_.shared.push_back({std::move(use.name), use.rule.multiplier});
  return {spec_.shared.size() - 1, /*shared=*/true};
}

}  // namespace gigagpt::engine
