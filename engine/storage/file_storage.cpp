// What callers of a FileStorage see: they leave requests for its thread and wait for their effect.
#include "engine/storage/file_storage.h"

#include <algorithm>
#include <cstring>

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

FileStorage::FileStorage(StateLayout given, const Path& path, Mode mode,
                         const StreamOptions& options, Cluster& cluster)
    : Storage(std::move(given), cluster),
      options_(options),
      has_peers_(!cluster.is_alone()),
      weights_(layout().layer_count()),
      gradients_(layout().layer_count()),
      gradient_written_(layout().layer_count()),
      stale_(layout().layer_count(), has_peers_),
      unreduced_(layout().layer_count()),
      layer_updates_(layout().layer_count()),
      weight_reads_(layout().layer_count()),
      pending_(layout().layer_count()),
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
    step_ = file_->step();
    update_ = file_->update();
    for (size_t i = 0; i < layout().segments().size(); ++i) {
      const bool old = layout().is_own(segment(i)) && file_->state_step(i) < step_;
      if (old) pending_[segment(i).layer] = true;
    }
  }
  thread_ = std::thread([this] { run(); });
}

FileStorage::~FileStorage() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  file_->file().wake();
  thread_.join();
}

void FileStorage::rethrow_error() {
  if (error_) std::rethrow_exception(error_);
}

// Until the storage's thread has done what was asked of it.
void FileStorage::wait_while(const bool& asked) {
  file_->file().wake();
  while (!error_ && asked) changed_.wait(mutex_);
  rethrow_error();
}

void FileStorage::post(Event event, size_t index) {
  {
    const MutexLock lock(mutex_);
    events_.emplace_back(event, index);
  }
  file_->file().wake();
}

void FileStorage::run_on_thread(const std::function<void()>& work) {
  const MutexLock lock(mutex_);
  GIGAGPT_ASSERT(expected_.empty() && started_.empty());
  work_ = &work;
  file_->file().wake();
  while (!error_ && work_ != nullptr) changed_.wait(mutex_);
  rethrow_error();
}

std::byte* FileStorage::gradient_at(size_t index) {
  const MutexLock lock(mutex_);
  const Segment& s = segment(index);
  return gradients_[s.layer].memory.data() + 4 * s.begin;
}

std::byte* FileStorage::weights_at(size_t index) {
  const MutexLock lock(mutex_);
  const Segment& s = segment(index);
  return weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin);
}

int64_t FileStorage::step() const {
  const MutexLock lock(mutex_);
  return step_;
}

void FileStorage::expect(std::span<const Request> requests) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  expected_.insert(expected_.end(), requests.begin(), requests.end());
  file_->file().wake();
}

std::byte* FileStorage::acquire(const Request& request) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  const LayerBuffer& buffer = buffer_of(request);
  if (started_.empty() || buffer.missing > 0) {
    const Zone zone("waiting for the disk");
    const Stopwatch watch;
    waiting_ = true;  // the thread gives what is waited for its memory in any case
    file_->file().wake();
    while (!error_ && (started_.empty() || buffer.missing > 0)) changed_.wait(mutex_);
    waiting_ = false;
    counts_.stall_ms += watch.seconds() * 1e3;
  }
  rethrow_error();
  GIGAGPT_ASSERT(started_.front().layer == request.layer &&
                 started_.front().gradient == request.gradient);
  started_.pop_front();
  file_->file().wake();  // one more can be started
  return buffer.memory.data();
}

void FileStorage::release(const Request& request) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  LayerBuffer& buffer = buffer_of(request);
  GIGAGPT_ASSERT(buffer.busy);
  if (request.gradient && !request.keep) {
    gradient_written_[request.layer] = true;
    buffer.missing = layout().segment_count(request.layer);
    events_.emplace_back(&FileStorage::gradient_released, request.layer);
  } else if (!request.gradient && !request.keep && buffer.leaving > 0) {
    buffer.dropped = true;
  } else {
    buffer.busy = false;
    if (!request.keep) take_memory(buffer);
  }
  file_->file().wake();
}

double FileStorage::reduced_square_sum(size_t layer) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  if (unreduced_[layer] > 0) {
    const Zone zone("waiting for the network");
    const Stopwatch watch;
    file_->file().wake();
    while (!error_ && unreduced_[layer] > 0) changed_.wait(mutex_);
    counts_.stall_ms += watch.seconds() * 1e3;
  }
  rethrow_error();
  return exchange_.square_sum_of_layer(layer);
}

void FileStorage::meet_at_one_step() {
  const int64_t own = step();
  const auto steps = cluster().gather(own);
  const int64_t least = *std::min_element(steps.begin(), steps.end());
  cluster().together([&] {
    if (own > least + 1) {
      fail(
          "store: {} is at step {}, the file of another system at step {}: go on from a checkpoint",
          file_->file().path().string(), own, least);
    }
    if (own > least) take_back_step();
  });
}

void FileStorage::take_back_step() {
  const int64_t before = step() - 1;
  run_on_thread([&] {
    thread_role_.assert_held();
    file_->write_header(before);
    pending_.assign(pending_.size(), false);
  });
  const MutexLock lock(mutex_);
  step_ = before;
}

void FileStorage::abandon() {
  const MutexLock lock(mutex_);
  abandoning_ = true;
  wait_while(abandoning_);
}

void FileStorage::defer(const Update& update) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  GIGAGPT_ASSERT(keeps_gradients() && expected_.empty() && update.step == step_ + 1);
  step_ = update.step;
  deferring_ = update;
  file_->file().wake();
}

void FileStorage::begin_updates() {
  if (keeps_gradients()) return;
  run_on_thread([&] {
    if (file_->step() >= 0) file_->write_header(-1);
  });
}

void FileStorage::update_layer(size_t layer, const Update& update) {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  LayerBuffer& buffer = gradients_[layer];
  GIGAGPT_ASSERT(!keeps_gradients() && buffer.busy);
  step_ = update.step;
  layer_updates_[layer] = update;
  stale_[layer] = has_peers_;
  buffer.missing = 0;
  for (size_t i = layout().first_segment(layer); i < layout().first_segment(layer + 1); ++i) {
    if (layout().is_own(segment(i))) ++buffer.missing;
  }
  if (buffer.missing == 0) {
    take_memory(buffer);
    buffer.busy = false;
  } else {
    events_.emplace_back(&FileStorage::update_asked, layer);
  }
  file_->file().wake();
}

void FileStorage::settle() {
  const MutexLock lock(mutex_);
  counts_.stall_ms += lock.waited_ms();
  GIGAGPT_ASSERT(expected_.empty() && started_.empty());
  const Stopwatch watch;
  settling_ = true;
  wait_while(settling_);
  counts_.stall_ms += watch.seconds() * 1e3;
}

std::vector<int64_t> FileStorage::weight_reads() const {
  const MutexLock lock(mutex_);
  return weight_reads_;
}

IoCounts FileStorage::counts() const {
  const MutexLock lock(mutex_);
  IoCounts counts = counts_;
  counts.sent_bytes = cluster().sent_bytes();
  return counts;
}

bool FileStorage::give_memory(LayerBuffer& buffer, uint64_t bytes) {
  const auto same = std::find_if(unused_.begin(), unused_.end(), [&](const PageBuffer& unused) {
    return unused.size_bytes() - bytes < kBlockBytes;
  });
  if (same != unused_.end()) {
    buffer.memory = std::move(*same);
    unused_.erase(same);
  } else {
    while (held_bytes_ + bytes > options_.memory_bytes && !unused_.empty()) {
      held_bytes_ -= unused_.back().size_bytes();
      unused_.pop_back();
    }
    // Nobody else can free any, so what is waited for gets it.
    const bool needed = waiting_ && started_.empty() && idle();
    if (held_bytes_ + bytes > options_.memory_bytes && !needed) return false;
    buffer.memory = PageBuffer(bytes);
    held_bytes_ += buffer.memory.size_bytes();
  }
  buffer.present = true;
  return true;
}

void FileStorage::take_memory(LayerBuffer& buffer) {
  if (options_.poison) std::memset(buffer.memory.data(), 0xFF, buffer.memory.size_bytes());
  unused_.push_back(std::move(buffer.memory));
  buffer.present = false;
  buffer.missing = 0;
}

}  // namespace gigagpt::engine
