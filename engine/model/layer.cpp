#include "engine/model/layer.h"

#include <algorithm>

#include "base/error.h"

namespace gigagpt::engine {

void Weights::add(std::string name, ops::Weight weight) {
  all_.emplace_back(std::move(name), std::move(weight));
}

const ops::Weight& Weights::operator[](std::string_view name) const {
  const auto found = find(name);
  GIGAGPT_ASSERT(found != all_.end());
  return found->second;
}

ops::Affine Weights::affine(const std::string& name) const {
  const auto bias = find(name + ".bias");
  return {(*this)[name + ".weight"], bias == all_.end() ? ops::Weight() : bias->second};
}

at::ScalarType Weights::dtype() const {
  const auto matrix = std::find_if(all_.begin(), all_.end(),
                                   [](const auto& w) { return w.second.value.dim() >= 2; });
  return matrix == all_.end() ? at::kFloat : matrix->second.value.scalar_type();
}

Weights::List::const_iterator Weights::find(std::string_view name) const {
  return std::find_if(all_.begin(), all_.end(), [&](const auto& w) { return w.first == name; });
}

std::vector<LayerSpec> specs_of(const Model& model) {
  std::vector<LayerSpec> specs;
  for (const auto& layer : model) specs.push_back(layer->spec());
  return specs;
}

}  // namespace gigagpt::engine
