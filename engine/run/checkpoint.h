// The checkpoints of a run: directories out_dir/checkpoint_N that appear complete or not at all.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/lock.h"
#include "base/system.h"
#include "engine/run/resume.h"
#include "engine/run/run_directory.h"
#include "engine/run/store.h"
#include "formats/run_files.h"
#include "formats/stored_weights.h"

namespace gigagpt::engine {

// Reads the weights of a checkpoint, this program's or another's, and with `optimizer` its moments
// if it has them, into the store, whose state is then that of `step`. Throws Error naming the file
// and tensor when it is damaged or belongs to another model; checksums are compared meanwhile, in
// another thread. Of several systems the one that leads reads.
void load_checkpoint(const Path& checkpoint, Store& store, bool optimizer, int64_t step,
                     const Progress& progress);

// Where a run starts, when and where it saves.
class Checkpoints {
 public:
  // Takes out_dir for this run, clears it of what killed runs left, and finds out where the run
  // starts. Throws AgreedError if another process trains there, or as find_resume_point does; reads
  // no weights. What is refused leaves no directory behind. Of several systems the one that leads
  // has the directory. The cluster must outlive this. `note` is told what a user should know.
  using Note = std::function<void(const std::string&)>;
  explicit Checkpoints(
      CheckpointRules rules, Cluster& cluster = Cluster::alone(),
      Note note = [](const std::string&) {});

  // See origin_text(); "" for a new run.
  std::string origin(Precision precision) const {
    return from_ ? origin_text(*from_, precision) : "";
  }

  // Nothing for a new run.
  const std::optional<ResumePoint>& resume_point() const { return from_; }

  // Loads the weights and moments the run goes on from, unless they are in the store already, or
  // draws new ones from `seed`. Returns the steps completed. For "latest", a checkpoint that turns
  // out to be damaged is set aside, which is said, and the whole one before it is loaded.
  int64_t start(Store& store, int64_t seed, const Progress& progress);

  // Whether to save after this step: by its number, by the clock of the one that leads, or as it is
  // `wanted`. Not while the disk has no room, which is said once; the run goes on.
  bool due(int64_t step, bool wanted = false);
  bool holds(int64_t step) const { return saved_step_ == step; }
  // Step of the last one from which the run can begin again, as reload() does: one that was due by
  // its step, since others come and go with stops and restarts. -1 if there is none, or if the
  // moments are in a file, which has no way back.
  int64_t way_back(const Store& store) const;
  // Loads the checkpoint of that step, and removes those after it.
  void reload(int64_t step, Store& store, const Progress& progress);

  // Writes out_dir/checkpoint_<step> with model.safetensors (fp32 master weights as
  // stored_tensors() lays them out), optimizer.safetensors (the moments; where a file has them, if
  // that is asked for), trainer_state.json and whatever `write_rest` puts into the directory. Keeps
  // the newest checkpoints, and the one that out_dir/best links to: this one, if it is the `best`.
  // On an error nothing of the new one remains and the old ones are untouched. Waits for room on
  // the disk, so that a run that ends loses nothing. Returns its path. Of several systems the one
  // that leads writes; all take part.
  Path save(int64_t step, Store& store, bool best,
            const std::function<void(const Path&)>& write_rest, const Progress& progress);

  std::string newest() const;  // its path, or "none"

 private:
  bool sets_aside();
  bool has_room(const char* otherwise);
  bool saves_moments(const Store& store) const;
  void load_with_moments(Store& store, const Progress& progress);
  CheckpointRules rules_;
  Cluster& cluster_;
  Note note_;
  std::optional<DirectoryLock> lock_;
  std::optional<ResumePoint> from_;
  int64_t saved_step_ = -1;
  uint64_t size_bytes_ = 0;  // of a checkpoint
  bool room_missed_ = false;
  Stopwatch since_saved_;  // or since the start
};

}  // namespace gigagpt::engine
