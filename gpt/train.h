// The training loop.
#pragma once

#include <functional>
#include <string>

#include "engine/run/runtime.h"
#include "formats/run_files.h"
#include "gpt/config.h"

namespace gigagpt {

// How the loop talks to whoever started it.
struct TrainEvents {
  std::function<void(const formats::StepMetrics&)> step_done;
  // Told the done share within a step or an evaluation, 0 as it begins. False drops the step, which
  // ends the run, or the evaluation.
  std::function<bool(double)> step_progress;
  std::function<bool(double)> eval_progress;
  std::function<bool(double)> io_progress;  // while initialising, loading or saving
  std::function<bool()> stop_wanted;        // asked after each step; true ends the run
  std::function<void(const std::string&)> note;
  // Before anything is computed; with where the run goes on from, if it does not begin.
  std::function<void(const engine::Plan&, const std::string& origin)> planned;
  // May add to what is written of a step, before it is.
  std::function<void(formats::StepMetrics&)> measured = {};
};

// Trains as the config says, from scratch or from config.saves.checkpoint_path, and leaves
// checkpoints and metrics.jsonl in config.out_dir. Its last state is saved when it is stopped or
// meets bad data too, but not on a loss or gradient that is not finite: then Error names step and
// layer, and the last good checkpoint stays. The system's machine is what the plan and the MFU
// count with; of several systems all call this, and the one that leads writes.
void train(GPTConfig config, const engine::System& system, const TrainEvents& events);

}  // namespace gigagpt
