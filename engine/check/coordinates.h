// The coordinate check of a parametrisation (Yang et al. 2022, arXiv 2203.03466, appendix D.1):
// what a model makes must have one size at every width, as it begins and after some steps of
// training.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/layer.h"
#include "engine/state/update.h"

namespace gigagpt::engine {

// The mean magnitudes of what embeddings and the ends of residual branches (by the name of their
// matrix, in the mean over the blocks) make, in the order of the forward pass, and the mean of the
// labels' logits over the mean of all: what was learned. The magnitude of all logits would hide it,
// as those of a wide model begin small by design: they are products of numbers that have nothing to
// do with each other.
using Coordinates = std::vector<std::pair<std::string, double>>;

struct CoordinateTrial {
  std::function<Model()> make;
  std::vector<LayerSpec> specs;     // the model's own, or with a part of them changed
  std::vector<MicroBatch> batches;  // one a step
  OptimizerRules optimizer = {};
  uint64_t seed = 0;
};

// Before the first step and after each, on the tokens of the first batch.
std::vector<Coordinates> trace_coordinates(const CoordinateTrial& trial);

// Changes what `p` made of the specs: as if it lacked that one of
// parts_of_mup(), or for logits had the root of it.
void leave_out(const std::string& part, const Parametrisation& p, std::vector<LayerSpec>& specs);

}  // namespace gigagpt::engine
