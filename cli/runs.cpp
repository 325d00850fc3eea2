#include "cli/runs.h"

#include "cli/inspect_parts.h"
#include "cli/run_settings.h"
#include "engine/run/resume.h"

namespace gigagpt::cli {

std::string run_name(const Path& run) {
  return std::filesystem::absolute(without_slash(run)).lexically_normal().filename().string();
}

KnownRun look_at_run(const Path& run) {
  const Path checkpoint = engine::find_checkpoint(run);
  KnownRun known{formats::read_trainer_state(checkpoint), {}};
  apply_kept_settings(checkpoint, known.config);
  return known;
}

}  // namespace gigagpt::cli
