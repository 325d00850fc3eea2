// `gigagpt coordinates`: the coordinate check of a config's model (engine/check/coordinates.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/check/coordinates.h"
#include "gpt/config.h"

namespace gigagpt {

struct CoordinatePlan {
  std::vector<int64_t> widths = {128, 256, 512, 1024};
  int64_t seeds = 3;
  int64_t steps = 6;
  std::string without = {};  // a part of muP that is left out; "": none
};

// The sizes of one coordinate at each width, in the mean over the seeds.
struct CoordinateCurves {
  std::string name;
  std::vector<std::vector<double>> by_step;  // [steps + 1][widths]

  // The slope of the logarithm over the width's after the last step, by least squares.
  double slope(const std::vector<int64_t>& widths) const;
};

// The config with another width: heads are of the size that they have, and so many more; what is
// given of the feed-forward layer's width and the heads of keys and values goes along. Throws Error
// if that is none.
GPTConfig with_width(GPTConfig config, int64_t width);

// Takes the model of the config, at most two blocks deep, through a few steps at each width, on
// tokens that follow one another by a rule. As there is no warm-up, a sixth of the learning rate is
// used. Tells the share that is done.
std::vector<CoordinateCurves> measure_coordinates(const GPTConfig& config,
                                                  const CoordinatePlan& plan,
                                                  const engine::Progress& progress);

}  // namespace gigagpt
