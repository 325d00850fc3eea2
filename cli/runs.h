// Finished runs, or such that are under way, as commands that compare them are given them.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "formats/run_files.h"
#include "gpt/config.h"
#include "gpt/law.h"

namespace gigagpt::cli {

// The last part of its path.
std::string run_name(const Path& run);

// What its newest checkpoint says of it. Throws Error if there is none.
struct KnownRun {
  formats::TrainerState state;
  GPTConfig config;
};
KnownRun look_at_run(const Path& run);

// A run that a law can be fitted to.
struct FinishedRun {
  Path path;
  LawPoint point;
  // What decides whether losses can be compared.
  std::string data, parametrisation;
  std::string dataset;
};
// By their FLOPs. Throws Error naming one that is not finished, has no validation loss of its last
// step, or cannot be compared with the others.
std::vector<FinishedRun> finished_runs(const std::vector<std::string>& paths);

}  // namespace gigagpt::cli
