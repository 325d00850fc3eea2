#include "cli/runs.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "cli/inspect_parts.h"
#include "cli/run_settings.h"
#include "engine/run/resume.h"

namespace gigagpt::cli {

std::string run_name(const Path& run) {
  return std::filesystem::absolute(without_slash(run)).lexically_normal().filename().string();
}

KnownRun look_at_run(const Path& run) {
  if (!std::filesystem::is_directory(run)) fail("{}: it is not the folder of a run", run.string());
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
  const std::string data = formats::find_text(state.manifest, "data");
  if (data.empty()) {
    fail(
        "{}: its checkpoint does not say which text it learned from, so that losses could be "
        "compared",
        path.string());
  }
  return {path, point, comparable(config, data), config.dataset};
}

}  // namespace

std::vector<FinishedRun> finished_runs(const std::vector<std::string>& paths) {
  std::vector<FinishedRun> runs;
  for (const std::string& path : paths) {
    runs.push_back(look_at_finished(path));
    const FinishedRun &first = runs.front(), &run = runs.back();
    for (const FinishedRun& other : std::span(runs).first(runs.size() - 1)) {
      if (std::filesystem::equivalent(other.path, run.path)) fail("{}: it is given twice", path);
    }
    const std::string text = difference(run.kind, first.kind);
    if (!text.empty())
      fail("{}: it cannot be compared with {}: {}", path, first.path.string(), text);
  }
  std::ranges::stable_sort(runs, {}, [](const FinishedRun& run) { return run.point.flops; });
  return runs;
}

}  // namespace gigagpt::cli
