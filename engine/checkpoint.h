// Checkpoints: directories out_dir/checkpoint_N that appear complete or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/store.h"
#include "formats/run_files.h"
#include "formats/safetensors.h"

namespace gigagpt::engine {

using formats::StoredTensor;

// Writes out_dir/checkpoint_<state.step> with model.safetensors (fp32 master weights as `tensors`
// lays them out), optimizer.safetensors (the moments), trainer_state.json (`state`, its manifest
// filled in) and whatever `write_rest` puts into the directory. Keeps the newest `keep` checkpoints
// (0: all). On an error nothing of the new one remains and the old ones are untouched. Returns its
// path.
Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep);

// Which checkpoint a run continues from: `wanted` as a path, or for "latest" the newest in out_dir
// (none if there is none). Throws Error if out_dir already holds a run that this would overwrite or
// branch off, rather than mixing two.
std::optional<Path> resume_point(const Path& out_dir, const std::optional<std::string>& wanted);

// Reads everything a run needs to go on; returns the steps completed. These are counted by tokens,
// so a run may go on with another batch size: Error if the tokens seen are no whole number of steps
// of `step_tokens`. A directory with weights only starts a new run from them at step 0.
int64_t resume(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors,
               int64_t step_tokens);

// Read a checkpoint's weights, or its optimizer moments, into the store. Throw Error naming the
// file and tensor when it is damaged or belongs to another model.
void load_weights(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors);
void load_optimizer(const Path& checkpoint, Store& store);

// The steps of the complete checkpoints in out_dir, ascending; empty if there is no out_dir.
std::vector<int64_t> checkpoint_steps(const Path& out_dir);
Path checkpoint_directory(const Path& out_dir, int64_t step);

}  // namespace gigagpt::engine
