// What callers of a FileStorage see: they leave requests for its thread and wait for their effect.
#include "engine/storage/file_storage.h"

#include <algorithm>

#include "base/error.h"
#include "base/system.h"
#include "base/trace.h"

namespace gigagpt::engine {
namespace {

constexpr size_t kInfoBlocks = 64;  // transfers of parts under way at once

}  // namespace

FileStorage::FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path,
                         Mode mode, const StreamOptions& options, Cluster& cluster)
    : FileStorage(StateLayout(std::move(specs), form, options.segment_elements,
                              form.training ? Shard{cluster.rank(), cluster.systems()} : Shard{}),
                  path, mode, options, form.training ? cluster : Cluster::alone()) {}

FileStorage::FileStorage(std::vector<LayerSpec> specs, const StateForm& form, const Path& path,
                         const Shard& shard, const StreamOptions& options)
    : FileStorage(StateLayout(std::move(specs), form, options.segment_elements, shard), path,
                  Mode::kOpen, options, Cluster::alone()) {}

FileStorage::FileStorage(StateLayout given, const Path& path, Mode mode,
                         const StreamOptions& options, Cluster& cluster)
    : Storage(std::move(given), cluster),
      options_(options),
      weights_(layout().layer_count()),
      gradients_(layout().layer_count()),
      gradient_written_(layout().layer_count()),
      pending_(layout().layer_count()),
      stale_(layout().layer_count(), !cluster.is_alone()),
      unreduced_(layout().layer_count()),
      layer_updates_(layout().layer_count()),
      weight_reads_(layout().layer_count()),
      in_cache_(layout().segments().size()),
      info_blocks_(kInfoBlocks * kBlockBytes),
      state_writes_(layout().layer_count()),
      others_writes_(layout().layer_count()),
      exchange_(cluster, layout()) {
  for (size_t i = 0; i < options.buffers; ++i) {
    buffers_.emplace_back(layout().slot_bytes());
    free_buffers_.push_back(i);
  }
  const bool training = layout().training();
  cached_ = std::min(layout().own_segments(),
                     options.cache_bytes / std::max<uint64_t>(1, layout().slot_bytes()));
  for (size_t i = 0; training && i < cached_; ++i) buffers_.emplace_back(layout().slot_bytes());
  for (size_t i = 0; i < kInfoBlocks; ++i) free_blocks_.push_back(i);
  if (mode == Mode::kCreate) {
    // As many again wait for a sync while the others are on their way.
    const size_t spare_slots = training ? 2 * options.buffers : 0;
    file_ = StateFile::create(path, layout(), spare_slots, options.step_tokens, options.run_id,
                              options.engine);
  } else {
    file_ = StateFile::open(path, layout(), options.engine);
    step_ = file_->header().step;
    update_ = file_->header().update;
    for (size_t i = 0; i < layout().segments().size(); ++i) {
      const bool old = layout().is_own(segment(i)) && file_->state_step(i) < step_;
      if (old) pending_[segment(i).layer] = true;
    }
  }
  thread_ = std::thread([this] { run(); });
}

FileStorage::~FileStorage() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  file_->file().wake();
  thread_.join();
}

template <class Done>
void FileStorage::wait(std::unique_lock<std::mutex>& lock, const Done& done) {
  file_->file().wake();
  changed_.wait(lock, [&] { return error_ != nullptr || done(); });
  if (error_) std::rethrow_exception(error_);
}

void FileStorage::errand(const std::function<void()>& work) {
  std::unique_lock lock(mutex_);
  GIGAGPT_ASSERT(expected_.empty() && started_.empty());
  errand_ = work;
  wait(lock, [&] { return !errand_; });
}

void FileStorage::expect(std::span<const Need> needs) {
  const std::lock_guard lock(mutex_);
  expected_.insert(expected_.end(), needs.begin(), needs.end());
  file_->file().wake();
}

std::byte* FileStorage::acquire(const Need& need) {
  std::unique_lock lock(mutex_);
  const Held& memory = held(need);
  const auto ready = [&] { return !started_.empty() && memory.missing == 0; };
  if (!ready() || error_) {
    const Zone zone("waiting for the disk");
    const Stopwatch watch;
    waiting_ = true;
    wait(lock, ready);
    waiting_ = false;
    counts_.stall_ms += watch.seconds() * 1e3;
  }
  GIGAGPT_ASSERT(started_.front().layer == need.layer &&
                 started_.front().gradient == need.gradient);
  started_.pop_front();
  file_->file().wake();  // one more can be started
  return memory.memory.data();
}

void FileStorage::release(const Need& need) {
  const std::lock_guard lock(mutex_);
  Held& memory = held(need);
  GIGAGPT_ASSERT(memory.busy);
  if (need.gradient && need.keep) {
    memory.busy = false;
  } else if (need.gradient) {
    gradient_written_[need.layer] = true;
    memory.missing = layout().segment_count(need.layer);
    stores_.push_back({Job::kStoreGradient, need.layer});
  } else if (!need.keep && memory.leaving > 0) {
    memory.dropped = true;
  } else {
    memory.busy = false;
    if (!need.keep) take_memory(memory);
  }
  file_->file().wake();
}

double FileStorage::reduced_square_sum(size_t layer) {
  std::unique_lock lock(mutex_);
  if (unreduced_[layer] > 0) {
    const Zone zone("waiting for the network");
    const Stopwatch watch;
    wait(lock, [&] { return unreduced_[layer] == 0; });
    counts_.stall_ms += watch.seconds() * 1e3;
  }
  return exchange_.square_sum_of_layer(layer);
}

void FileStorage::meet_at_one_step() {
  const auto steps = cluster().gather(step_);
  const int64_t least = *std::min_element(steps.begin(), steps.end());
  cluster().together([&] {
    if (step_ > least + 1) {
      fail(
          "store: {} is at step {}, the file of another system at step {}: go on from a checkpoint",
          file_->file().path().string(), step_, least);
    }
    if (step_ > least) take_back_step();
  });
}

void FileStorage::take_back_step() {
  errand([&] {
    file_->write_header({step_ - 1, /*pending=*/false, {}});
    pending_.assign(pending_.size(), false);
  });
  --step_;
}

void FileStorage::abandon() {
  std::unique_lock lock(mutex_);
  abandoning_ = true;
  wait(lock, [&] { return !abandoning_; });
}

void FileStorage::defer(const Update& update) {
  const std::lock_guard lock(mutex_);
  GIGAGPT_ASSERT(keeps_gradients() && expected_.empty() && update.step == step_ + 1);
  step_ = update.step;
  deferring_ = update;
  file_->file().wake();
}

void FileStorage::begin_updates() {
  if (keeps_gradients()) return;
  errand([&] {
    if (file_->header().step >= 0) file_->write_header({});
  });
}

void FileStorage::update_layer(size_t layer, const Update& update) {
  const std::lock_guard lock(mutex_);
  Held& memory = gradients_[layer];
  GIGAGPT_ASSERT(!keeps_gradients() && memory.busy);
  step_ = update.step;
  layer_updates_[layer] = update;
  stale_[layer] = !cluster().is_alone();
  memory.missing = 0;
  for (size_t i = 0; i < layout().segment_count(layer); ++i) {
    if (layout().is_own(segment(layout().first_segment(layer) + i))) ++memory.missing;
  }
  if (memory.missing == 0) {
    take_memory(memory);
    memory.busy = false;
  } else {
    stores_.push_back({Job::kUpdateNow, layer, 0, /*deliver=*/false});
  }
  file_->file().wake();
}

void FileStorage::settle() {
  std::unique_lock lock(mutex_);
  GIGAGPT_ASSERT(expected_.empty() && started_.empty());
  const Stopwatch watch;
  settling_ = true;
  wait(lock, [&] { return !settling_; });
  counts_.stall_ms += watch.seconds() * 1e3;
}

std::vector<int64_t> FileStorage::weight_reads() const {
  const std::lock_guard lock(mutex_);
  return weight_reads_;
}

IoCounts FileStorage::counts() const {
  const std::lock_guard lock(mutex_);
  IoCounts counts = counts_;
  counts.sent_bytes = cluster().sent_bytes();
  return counts;
}

}  // namespace gigagpt::engine
