// Checkpoints: directories out_dir/checkpoint_N that appear complete or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/run_directory.h"
#include "engine/store.h"
#include "formats/run_files.h"
#include "formats/safetensors.h"

namespace gigagpt::engine {

using formats::StoredTensor;

// Writes out_dir/checkpoint_<state.step> with model.safetensors (fp32 master weights as `tensors`
// lays them out), optimizer.safetensors (the moments, unless a file keeps them), trainer_state.json
// (`state`, its manifest and file sums filled in) and whatever `write_rest` puts into the
// directory. Keeps the newest `keep` checkpoints (0: all). On an error nothing of the new one
// remains and the old ones are untouched. Returns its path.
Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep,
                     const Progress& progress);

// Where a run goes on from.
struct ResumePoint {
  Path checkpoint;
  int64_t step = 0;  // steps completed
  bool in_out_dir = false;
  bool in_store = false;      // `checkpoint` is the file that the state lives in
  bool moments_lost = false;  // they were in a file that is not there any more
};

// `wanted` as a path (or a run's out_dir: its newest), or for "latest" the newest in out_dir;
// nothing if there is none, or nothing is wanted. Steps are counted by tokens, so a run may go on
// elsewhere with another batch size, as long as the tokens seen are whole steps of `step_tokens`; a
// checkpoint with weights only is at step 0. Throws Error if out_dir already holds a run that would
// be overwritten or branched off. Reads no weights. If `store_file` holds a run, "latest" is that,
// unless the newest checkpoint belongs to another file.
std::optional<ResumePoint> find_resume_point(const Path& out_dir, const Path& store_file,
                                             const std::optional<std::string>& wanted,
                                             int64_t step_tokens);

// The checkpoint that a path given by a user means: itself, or the newest in a run's out_dir.
Path find_checkpoint(const Path& given);

// Reads a checkpoint's weights, and with `optimizer` its moments if it has them, into the store,
// whose state is then that of `step`.
// Throws Error naming the file and tensor when it is damaged or belongs to another model.
void load_checkpoint(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors,
                     bool optimizer, int64_t step, const Progress& progress);

}  // namespace gigagpt::engine
