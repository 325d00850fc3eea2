// A law that was fitted to runs as a file, which `law:` names. No LibTorch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "gpt/collapse.h"
#include "gpt/config.h"
#include "gpt/law.h"
#include "gpt/law_fit.h"

namespace gigagpt {

// The properties that runs must share for their losses to be comparable.
struct Comparable {
  std::string data;             // formats::fingerprint of train.bin
  std::string parametrisation;  // "muP" or "the standard parametrisation"
  int64_t sequence_length = 0;
};
Comparable comparable(const GPTConfig& config, const std::string& data);
// Names what `ours` has and `others` has not, as "its text is A and not B"; "" if they are alike.
std::string difference(const Comparable& ours, const Comparable& others);

struct FittedLaw {
  LawFit fit;
  std::vector<LawPoint> runs;  // in the order of their FLOPs
  Comparable kind;
  std::optional<double> tokens_per_byte = {};  // of the validation text
  std::optional<CollapseCurve> curve = {};

  // Tokens a parameter, the mean over the runs.
  double ratio() const;
};

// JSON. Throws Error for a file that is none.
void write_law(const Path& file, const FittedLaw& law);
FittedLaw read_law(const Path& file);

// Tokens of the whole run, how many a parameter, and its FLOPs by the paper's count.
double run_tokens(const GPTConfig& config);
double tokens_per_parameter(const GPTConfig& config);
double published_flops(const GPTConfig& config);

// Throws Error for a law that says nothing of this run.
void check_law(const FittedLaw& law, const std::string& file, const Comparable& run);

// A watch over a run by the law's curve; nothing if the law has none.
std::optional<CollapseWatch> watch_by(const FittedLaw& law, const GPTConfig& config);

}  // namespace gigagpt
