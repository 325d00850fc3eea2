// The checkpoints of one run: where it starts, when and where it saves.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/lock.h"
#include "base/system.h"
#include "engine/run/checkpoint.h"
#include "engine/run/runtime.h"

namespace gigagpt::engine {

class Checkpoints {
 public:
  // Takes out_dir for this run, clears it of what killed runs left, and finds out where the run
  // starts. Throws AgreedError if another process trains there, or as find_resume_point does; reads
  // no weights. What is refused leaves no directory behind. Of several systems the one that leads
  // has the directory. The cluster must outlive this.
  explicit Checkpoints(CheckpointRules rules, Cluster& cluster = Cluster::alone());

  // "continuing from ... at step N", or "" for a new run.
  std::string origin() const;

  // The file that the run goes on in, or that its new one takes the place of.
  StoreOrigin store_origin() const { return {from_ && from_->in_store, from_ ? from_->run_id : 0}; }

  // Loads the weights and moments the run goes on from, unless they are in the store already, or
  // draws new ones from `seed`. Returns the steps completed.
  int64_t start(Store& store, const std::vector<StoredTensor>& layout, int64_t seed,
                const Progress& progress);

  // Whether to save after this step.
  bool due(int64_t step) const;  // the clock of the one that leads decides
  bool holds(int64_t step) const { return saved_step_ == step; }

  // As save_checkpoint.
  Path save(int64_t step, Store& store, const std::vector<StoredTensor>& layout,
            formats::TextPairs config, const std::function<void(const Path&)>& write_rest,
            const Progress& progress);

  std::string newest() const;  // its path, or "none"

 private:
  CheckpointRules rules_;
  Cluster& cluster_;
  std::optional<DirectoryLock> lock_;
  std::optional<ResumePoint> from_;
  int64_t saved_step_ = -1;
  Stopwatch since_saved_;  // or since the start
};

}  // namespace gigagpt::engine
