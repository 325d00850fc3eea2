#include "cli/runs.h"

#include "cli/arguments.h"
#include "cli/inspect_parts.h"
#include "engine/run/resume.h"

namespace gigagpt::cli {

std::string run_name(const Path& run) {
  return std::filesystem::absolute(without_slash(run)).lexically_normal().filename().string();
}

KnownRun look_at_run(const Path& run) {
  const Path checkpoint = engine::find_checkpoint(run);
  KnownRun known{formats::read_trainer_state(checkpoint), {}};
  std::vector<Setting> settings;
  for (const auto& [key, value] : known.state.config)
    settings.push_back({key, value, (checkpoint / "trainer_state.json").string()});
  apply_settings(settings, known.config);
  return known;
}

}  // namespace gigagpt::cli
