#include "engine/model/layer.h"

#include "base/random.h"

namespace gigagpt::engine {

uint64_t Pass::key_of(const LayerSpec& layer, uint64_t place) const {
  return mix(mix(key, hash_name(layer.name)), place);
}

ops::AttentionRule Pass::attention_rule(const LayerSpec& layer, int64_t heads, double dropout_p,
                                        uint64_t place) const {
  ops::AttentionRule rule{heads, batch.mask, batch.documents, dropout_p, key_of(layer, place)};
  rule.over_size = layer.over_size;
  return rule;
}

std::vector<LayerSpec> specs_of(const Model& model) {
  std::vector<LayerSpec> specs;
  for (const auto& layer : model) specs.push_back(layer->spec());
  return specs;
}

}  // namespace gigagpt::engine
