// A law that was fitted to runs as a file, which `law:` names. No LibTorch.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "gpt/collapse.h"
#include "gpt/config.h"
#include "gpt/law.h"
#include "gpt/law_fit.h"

namespace gigagpt {

struct FittedLaw {
  LawFit fit;
  std::vector<LawPoint> runs;  // that it was fitted to, by their FLOPs
  // What losses that can be compared have in common.
  std::string data;                            // formats::fingerprint of train.bin
  std::string parametrisation;                 // as parametrisation_name() has it
  std::optional<double> tokens_per_byte = {};  // of its validation text
  std::optional<CollapseCurve> curve = {};

  // Tokens a parameter, the mean over the runs.
  double ratio() const;
};

// JSON. Throws Error for a file that is none.
void write_law(const Path& file, const FittedLaw& law);
FittedLaw read_law(const Path& file);

// "muP" or "the standard parametrisation".
std::string parametrisation_name(const GPTConfig& config);

// FLOPs of the whole run by the paper's count.
double published_flops(const GPTConfig& config);

// Throws Error for a law of another text than the run's, or of the other parametrisation.
void check_law(const FittedLaw& law, const std::string& file, const GPTConfig& config,
               const std::string& data);

// What a run is held against; nothing if the law has no curve.
std::optional<CollapseWatch> watch_by(const FittedLaw& law, const GPTConfig& config);

}  // namespace gigagpt
