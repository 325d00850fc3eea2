// Finished runs, or such that are under way, as commands that compare them are given them.
#pragma once

#include <string>
#include <vector>

#include "base/file.h"
#include "formats/run_files.h"
#include "gpt/config.h"
#include "gpt/law_file.h"

namespace gigagpt::cli {

// The last part of its path.
std::string run_name(const Path& run);

// A run as its newest checkpoint describes it.
struct KnownRun {
  formats::TrainerState state;
  GPTConfig config;
};
// Throws Error for a path that is not the out_dir of a run with a checkpoint.
KnownRun look_at_run(const Path& run);

// A run that a law can be fitted to.
struct FinishedRun {
  Path path;
  LawPoint point;
  Comparable kind;
  std::string dataset;
};
// Returns the runs in the order of their FLOPs. Throws Error naming one that is not finished, has
// no validation loss of its last step, is given twice, or cannot be compared with the others.
std::vector<FinishedRun> finished_runs(const std::vector<std::string>& paths);

}  // namespace gigagpt::cli
