#include "engine/model/layer.h"

#include "base/random.h"

namespace gigagpt::engine {

uint64_t Pass::key_of(const LayerSpec& layer, uint64_t place) const {
  return mix(mix(key, hash_name(layer.name)), place);
}

std::vector<LayerSpec> specs_of(const Model& model) {
  std::vector<LayerSpec> specs;
  for (const auto& layer : model) specs.push_back(layer->spec());
  return specs;
}

}  // namespace gigagpt::engine
