// Finished runs, or such that are under way, as commands that compare them are given them.
#pragma once

#include <string>

#include "base/file.h"
#include "formats/run_files.h"
#include "gpt/config.h"

namespace gigagpt::cli {

// The last part of its path.
std::string run_name(const Path& run);

// What its newest checkpoint says of it. Throws Error if there is none.
struct KnownRun {
  formats::TrainerState state;
  GPTConfig config;
};
KnownRun look_at_run(const Path& run);

}  // namespace gigagpt::cli
