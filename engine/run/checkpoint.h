// Checkpoints: directories out_dir/checkpoint_N that appear complete or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "engine/run/resume.h"
#include "engine/run/run_directory.h"
#include "engine/run/store.h"
#include "formats/run_files.h"
#include "formats/stored_weights.h"

namespace gigagpt::engine {

using formats::StoredTensor;

// Writes out_dir/checkpoint_<state.step> with model.safetensors (fp32 master weights as `tensors`
// lays them out), optimizer.safetensors (the moments, unless a file keeps them), trainer_state.json
// (`state`, its manifest and file sums filled in) and whatever `write_rest` puts into the
// directory. Keeps the newest `keep` checkpoints (0: all). On an error nothing of the new one
// remains and the old ones are untouched. Returns its path. Of several systems the one that leads
// writes; all take part.
Path save_checkpoint(const Path& out_dir, formats::TrainerState state, Store& store,
                     const std::vector<StoredTensor>& tensors,
                     const std::function<void(const Path&)>& write_rest, int64_t keep,
                     const Progress& progress);

// Reads the weights of a checkpoint, this program's or another's, and with `optimizer` its moments
// if it has them, into the store, whose state is then that of `step`. Throws Error naming the file
// and tensor when it is damaged or belongs to another model. Of several systems the one that leads
// reads.
void load_checkpoint(const Path& checkpoint, Store& store, const std::vector<StoredTensor>& tensors,
                     bool optimizer, int64_t step, const Progress& progress);

// The same from the files of a run on another number of systems, which must be there for the one
// that leads.
void load_files(const ResumePoint& from, Store& store, const Progress& progress);

}  // namespace gigagpt::engine
