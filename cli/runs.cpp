#include "cli/runs.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "cli/inspect_parts.h"
#include "cli/run_settings.h"
#include "engine/run/resume.h"
#include "gpt/law_file.h"

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

namespace {

// The validation loss after the last step; throws Error for a run that has none.
double last_loss(const Path& run, int64_t last_step) {
  std::optional<double> loss;
  formats::for_each_logged(run, last_step, [&](const formats::StepMetrics& metrics) {
    loss = metrics.step == last_step ? metrics.val_loss : std::nullopt;
  });
  if (loss && std::isfinite(*loss)) return *loss;
  fail("{}: it has no validation loss of its last step, {}; train with eval_steps", run.string(),
       last_step);
}

FinishedRun look_at_finished(const Path& path) {
  const auto [state, config] = look_at_run(path);
  if (state.step != config.num_steps) {
    fail("{}: it is not finished: its newest checkpoint is of step {} of {}", path.string(),
         state.step, config.num_steps);
  }
  const LawPoint point{run_name(path), published_flops(config),
                       double(engine::parameter_count(config.layers())), double(state.tokens),
                       last_loss(path, state.step)};
  return {path, point, formats::find_text(state.manifest, "data"), parametrisation_name(config),
          config.dataset};
}

}  // namespace

std::vector<FinishedRun> finished_runs(const std::vector<std::string>& paths) {
  std::vector<FinishedRun> runs;
  for (const std::string& path : paths) {
    runs.push_back(look_at_finished(path));
    const FinishedRun &first = runs.front(), &run = runs.back();
    if (run.data != first.data) {
      fail("{}: its text ({}) is not that of {} ({}): their losses cannot be compared", path,
           run.data, first.path.string(), first.data);
    }
    if (run.parametrisation != first.parametrisation) {
      fail("{}: it is a model of {}, and {} is one of {}: a law is of one kind", path,
           run.parametrisation, first.path.string(), first.parametrisation);
    }
  }
  std::ranges::stable_sort(runs, {}, [](const FinishedRun& run) { return run.point.flops; });
  return runs;
}

}  // namespace gigagpt::cli
