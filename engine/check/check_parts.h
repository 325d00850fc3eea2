// What the checks of a model share. Each returns what it saw, or why its claim does not hold.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/check/check.h"
#include "engine/run/store.h"

namespace gigagpt::engine::checks {

using Values = std::map<std::string, at::Tensor>;  // master weights, by full name

struct Trial {
  const Subject& subject;
  const Model model;
  const std::vector<LayerSpec> specs;
  const Values values;
};

struct Verdict {
  std::string problem;
  std::string seen;
};
inline Verdict good(std::string seen) {
  return {"", std::move(seen)};
}
inline Verdict bad(std::string problem) {
  return {std::move(problem), ""};
}

inline constexpr uint64_t kKey = 77;  // of the step that is tried

// Layers and their arguments.
Verdict check_pure(const Trial& trial);
Verdict check_evaluation(const Trial& trial);
Verdict check_rows(const Trial& trial);
// Gradients.
Verdict check_bits(const Trial& trial);
Verdict check_alive(const Trial& trial);
Verdict check_slopes(const Trial& trial);
Verdict check_bf16(const Trial& trial);
// A model of language.
Verdict check_labels(const Trial& trial);
Verdict check_causality(const Trial& trial);
Verdict check_documents(const Trial& trial);
Verdict check_sampling(const Trial& trial);
// Runs.
Verdict check_memory(const Trial& trial);
Verdict check_flops(const Trial& trial);
Verdict check_file(const Trial& trial);
Verdict check_resume(const Trial& trial);
Verdict check_systems(const Trial& trial);

// The parameters of a layer, over the memory of `values`; with `gradients`, as leaves of autograd.
Weights weights_of(const LayerSpec& spec, const Values& values, bool gradients = false);
// The last layer's output, without gradients.
at::Tensor output_of(const Trial& trial, const Values& values, const Pass& pass);
// What a step minimises, without gradients: losses that layers add are in it.
double objective(const Trial& trial, const Values& values, std::span<const MicroBatch> batches,
                 bool training, uint64_t key = kKey);
void fill(Store& store, const Values& values);
// Rows [first, first + count) of a micro-batch.
MicroBatch rows_of(const MicroBatch& batch, int64_t first, int64_t count);

}  // namespace gigagpt::engine::checks
