// What a run is told, with what follows from the model that it goes on from.
#pragma once

#include <vector>

#include "cli/arguments.h"

namespace gigagpt::cli {

// Applies the settings of `plan` and `train`. Where vocab_size is not set it is the data set's. A
// run that goes on from a checkpoint, of this program or another, takes the keys of the model from
// it; those that are set must agree, or Error names the key and where it was set. "latest", where
// there is nothing yet to go on from, is the checkpoint_path that was set before it.
void apply_run_settings(const std::vector<Setting>& settings, GPTConfig& config);

// Applies what a checkpoint's trainer_state.json keeps of its run's config. Throws Error.
void apply_kept_settings(const Path& checkpoint, GPTConfig& config);

// Takes the keys of the model from another config: those that are not set, if the others agree.
// `where` is whose model that is.
void adopt_model(GPTConfig model, const std::string& where, const std::vector<Setting>& settings,
                 GPTConfig& config);

}  // namespace gigagpt::cli
