#include "engine/run/checkpoints.h"

#include <utility>

#include "base/error.h"

namespace gigagpt::engine {

Checkpoints::Checkpoints(CheckpointRules rules, Cluster& cluster)
    : rules_(std::move(rules)), cluster_(cluster) {
  cluster.together([&] {
    if (!cluster.leads()) return;
    lock_.emplace(rules_.out_dir, "out_dir", "training");
    remove_leftovers(rules_.out_dir);
  });
  from_ = find_resume_point(rules_, cluster);
}

std::string Checkpoints::origin() const {
  if (!from_) return "";
  const std::string of_others = from_->other_files.empty() ? ""
                                                           : fmt::format(", which {} systems made",
                                                                         from_->other_files.size());
  return fmt::format("continuing from {} at step {}{}{}", from_->checkpoint.string(), from_->step,
                     of_others,
                     from_->moments_lost ? "; it has weights alone: the optimizer's moments, in a "
                                           "file that is not there, start from zero"
                                         : "");
}

int64_t Checkpoints::start(Store& store, const std::vector<StoredTensor>& layout, int64_t seed,
                           const Progress& progress) {
  if (!from_) store.initialise(uint64_t(seed), progress);
  if (from_ && !from_->other_files.empty()) {
    load_files(*from_, store, progress);
  } else if (from_ && !from_->in_store) {
    load_checkpoint(from_->checkpoint, store, layout, /*optimizer=*/true, from_->step, progress);
  }
  if (from_ && from_->in_out_dir) saved_step_ = from_->step;
  since_saved_ = {};
  // A file may be a step ahead of what it said when a killed process was still writing.
  if (from_ && from_->in_store) return store.step();
  return from_ ? from_->step : 0;
}

bool Checkpoints::due(int64_t step) const {
  const RunSize& every = rules_.size;
  const bool by_step = every.checkpoint_steps > 0 && step % every.checkpoint_steps == 0;
  const bool by_time =
      every.checkpoint_minutes > 0 && since_saved_.seconds() > 60 * every.checkpoint_minutes;
  return by_step || cluster_.any(by_time && cluster_.leads());
}

Path Checkpoints::save(int64_t step, Store& store, const std::vector<StoredTensor>& layout,
                       formats::TextPairs config,
                       const std::function<void(const Path&)>& write_rest,
                       const Progress& progress) {
  const formats::TrainerState state{
      step, step * rules_.size.step_tokens(), std::move(config), {}, {}};
  const Path path = save_checkpoint(rules_.out_dir, state, store, layout, write_rest,
                                    rules_.size.keep_checkpoints, progress);
  saved_step_ = step;
  since_saved_ = {};
  return path;
}

std::string Checkpoints::newest() const {
  return saved_step_ < 0 ? "none" : checkpoint_directory(rules_.out_dir, saved_step_).string();
}

}  // namespace gigagpt::engine
