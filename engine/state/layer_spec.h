// What parameters a layer has, as plain data: enough to plan, initialise, store and name them
// without LibTorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gigagpt::engine {

// A parameter and its initial distribution, normal(init_mean, init_std). One with two or more
// dimensions is multiplied in the compute precision and decays; a vector does neither.
struct ParamSpec {
  std::string name;  // within its layer, e.g. "attn.proj_qkv.weight"
  std::vector<int64_t> shape;
  double init_mean = 0.0;
  double init_std = 0.0;
  bool looked_up = false;  // its own layer only looks up rows of it, so that few get a gradient

  int64_t count() const {
    int64_t product = 1;
    for (const int64_t extent : shape) product *= extent;
    return product;
  }
};

struct LayerSpec {
  std::string name;    // for messages: "embedding", "decoder.3"
  std::string prefix;  // put before each parameter's name: "decoder.3." or ""
  std::vector<ParamSpec> params;
  std::vector<std::string> shared = {};  // full names of other layers' parameters it uses (tied)
};

inline int64_t parameter_count(const std::vector<LayerSpec>& layers) {
  int64_t total = 0;
  for (const LayerSpec& layer : layers) {
    for (const ParamSpec& param : layer.params) total += param.count();
  }
  return total;
}

}  // namespace gigagpt::engine
