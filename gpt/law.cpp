#include "gpt/law.h"

#include <algorithm>
#include <cmath>

namespace gigagpt {

double ScalingLaw::loss(double flops) const {
  return std::pow(flops / scale, -exponent) + floor;
}

const ScalingLaw& published_law(bool mup) {
  static const ScalingLaw standard{"Cerebras-GPT's", 5.984e22, 0.0737, 0.5066};
  static const ScalingLaw maximal{"fitted by us to Cerebras-GPT's muP models", 5.77e22, 0.0733,
                                  0.5066};
  return mup ? maximal : standard;
}

double published_flops_per_token(const std::vector<engine::LayerSpec>& layers,
                                 int64_t sequence_length) {
  double flops = 0;
  for (const engine::LayerSpec& layer : layers) {
    flops += 3 * (layer.token_flops + 2 * layer.pair_flops * double(sequence_length));
    for (const engine::ParamSpec& param : layer.params) {
      if (param.is_hidden() || param.rule.output)
        flops += 6 * param.rule.per_token * double(param.count());
      if (param.rule.looked_up) flops += 4 * double(param.count());
    }
    for (const engine::SharedParam& use : layer.shared)
      flops += 6 * double(engine::find_param(layers, use.name).param.count());
  }
  return flops;
}

std::span<const PublishedModel> published_models() {
  static constexpr PublishedModel kModels[] = {
      {"111M", 10, 768, 12, 2.221e9, 111'050'496, 2.6e18, 2.608, 2.588},
      {"256M", 14, 1088, 17, 5.119e9, 255'977'024, 1.3e19, 2.349, 2.359},
      {"590M", 18, 1536, 12, 1.181e10, 590'310'912, 6.1e19, 2.181, 2.155},
      {"1.3B", 24, 2048, 16, 2.631e10, 1'315'723'264, 2.8e20, 1.997, 1.984},
      {"2.7B", 32, 2560, 32, 5.303e10, 2'651'553'280, 1.1e21, 1.834, 1.846},
      {"6.7B", 32, 4096, 32, 1.332e11, 6'658'404'352, 6.3e21, 1.704, 0},
      {"13B", 40, 5120, 40, 2.571e11, 12'853'386'240, 2.3e22, 1.572, 0}};
  return kModels;
}

const PublishedModel& nearest_published(double flops) {
  const auto apart = [flops](const PublishedModel& m) {
    return std::abs(std::log(m.flops / flops));
  };
  return *std::ranges::min_element(published_models(), {}, apart);
}

}  // namespace gigagpt
