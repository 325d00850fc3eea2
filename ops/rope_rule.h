// How rotary position embeddings turn. No LibTorch.
#pragma once

#include <cstdint>
#include <vector>

#include "base/option.h"

namespace gigagpt::ops {

// Element i of a head's first half and element i of its second are turned by position *
// theta^(-2i / D) (Su et al. 2021). A factor above 1 stretches the wavelengths that are long
// against original_positions (Grattafiori et al. 2024, and the like in transformers'
// modeling_rope_utils.py).
struct RopeRule {
  double theta = 10000;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 4;
  int64_t original_positions = 8192;
  bool operator==(const RopeRule&) const = default;

  std::vector<Option> options() {  // config keys; they point into this object
    return {{"rope_theta", &theta, "base of the wavelengths of positions", above(1)},
            {"rope_factor", &factor, "stretches long wavelengths; 1: none", at_least(1)},
            {"rope_low_frequency_factor", &low_frequency_factor,
             "waves in rope_original_positions up to which all is stretched", above(0)},
            {"rope_high_frequency_factor", &high_frequency_factor, "waves from which nothing is",
             above(0)},
            {"rope_original_positions", &original_positions, "positions before stretching",
             between(1, 1 << 24)}};
  }
};

}  // namespace gigagpt::ops
