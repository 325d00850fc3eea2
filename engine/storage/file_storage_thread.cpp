// The thread of a FileStorage. It runs no OpenMP: the update's arithmetic is a plain loop.
#include <algorithm>
#include <cstring>

#include "engine/storage/file_storage.h"

namespace gigagpt::engine {
namespace {

// In the first half of the same memory.
void to_bf16_in_place(float* values, size_t count) {
  auto* bytes = reinterpret_cast<std::byte*>(values);
  for (size_t i = 0; i < count; ++i) {
    const ops::kernels::Bf16 rounded = ops::kernels::to_bf16(values[i]);
    std::memcpy(bytes + 2 * i, &rounded, sizeof rounded);
  }
}

}  // namespace

enum class FileStorage::Job : int {
  kLoadWeights,
  kLoadGradient,
  kStoreGradient,
  kUpdate,     // with the gradient in the file
  kUpdateNow,  // with the one in memory
  kWriteBack,
  kStoreWeights,  // that another system has updated
  kSync
};

void FileStorage::run() {
  thread_role_.assert_held();
  try {
    for (;;) {
      std::function<void()> work;
      {
        const MutexLock lock(mutex_);
        if (stopping_) return;
        for (const auto& [event, index] : std::exchange(events_, {})) (this->*event)(index);
        work = accept();
        count_bytes();
      }
      if (work) {
        work();
      } else if (!issue()) {
        if (const auto id = file_->file().wait()) complete(*id);
      }
    }
  } catch (...) {
    const MutexLock lock(mutex_);
    error_ = std::current_exception();
    changed_.notify_all();
  }
}

// Takes in requests, as far as they are allowed by now. Returns work that reads, writes or syncs,
// and so is done without the mutex, before there may be more.
std::function<void()> FileStorage::accept() {
  for (;;) {
    if (deferring_ && !write_backs_.empty()) return {};  // of the update before
    if (deferring_) {
      update_ = *std::exchange(deferring_, std::nullopt);
      header_due_ = true;
      pending_.assign(pending_.size(), true);
      stale_.assign(stale_.size(), has_peers_);
      gradient_written_.assign(gradient_written_.size(), false);
    }
    if (auto work = due_work()) return work;
    if (settling_) {
      for (size_t i = 0; i < pending_.size(); ++i) {
        if (!pending_[i]) continue;
        pending_[i] = false;
        queue_layer(loads_, i, {Job::kUpdate, 0, /*deliver=*/false});
      }
      return {};
    }
    const bool more = !expected_.empty() && started_.size() < options_.ahead;
    if (!more || !start(expected_.front())) return {};
    started_.push_back(expected_.front());
    expected_.pop_front();
    changed_.notify_all();
  }
}

void FileStorage::gradient_released(size_t layer) {
  queue_layer(stores_, layer, {Job::kStoreGradient});
}

void FileStorage::update_asked(size_t layer) {
  queue_layer(stores_, layer, {Job::kUpdateNow, 0, /*deliver=*/false});
}

// What waits until nothing is under way.
std::function<void()> FileStorage::due_work() {
  if (header_due_ && stores_.empty() && transfers_.empty() && reducing_ == 0) {
    return [this] { write_pending_header(); };
  }
  if (header_due_ || headers_due_ || !idle()) return {};
  if (abandoning_) {
    drop_all();
    return {};
  }
  const bool updated = std::none_of(pending_.begin(), pending_.end(), [](bool b) { return b; });
  if (settling_ && updated) {
    return [this] { finish_settling(); };
  }
  if (work_ == nullptr) return {};
  return [this, work = work_] {
    (*work)();
    thread_role_.assert_held();
    const MutexLock lock(mutex_);
    count_bytes();
    work_ = nullptr;
    changed_.notify_all();
  };
}

// Says that the step's gradients are all in the file: its update may begin.
void FileStorage::write_pending_header() {
  thread_role_.assert_held();
  file_->write_header(update_, /*pending=*/true);
  give_back(retired_);
  header_due_ = false;
  headers_due_ = true;
  exchange_.meet([this] { post(&FileStorage::all_met, 0); });
}

void FileStorage::finish_settling() {
  thread_role_.assert_held();
  const int64_t step = this->step();
  if (file_->pending() || file_->step() != step) {
    file_->write_header(step);
    give_back(retired_);
  }
  const MutexLock lock(mutex_);
  count_bytes();
  settling_ = false;
  changed_.notify_all();
}

void FileStorage::count_bytes() {
  counts_.read_bytes = file_->file().read_bytes();
  counts_.write_bytes = file_->file().written_bytes();
}

void FileStorage::drop_all() {
  expected_.clear();
  started_.clear();
  for (size_t i = 0; i < weights_.size(); ++i) {
    for (LayerBuffer* buffer : {&weights_[i], &gradients_[i]}) {
      if (buffer->present) take_memory(*buffer);
      buffer->busy = false;
    }
  }
  gradient_written_.assign(gradient_written_.size(), false);
  abandoning_ = false;
  changed_.notify_all();
}

bool FileStorage::idle() const {
  return loads_.empty() && stores_.empty() && write_backs_.empty() && transfers_.empty() &&
         ready_gradients_.empty() && ready_weights_.empty() && reducing_ == 0 && broadcasting_ == 0;
}

// Begins to fill the memory that a request asks for, if it can. Requests for the same memory take
// turns.
bool FileStorage::start(const Request& request) {
  LayerBuffer& buffer = buffer_of(request);
  const auto [layer, gradient, _] = request;
  if (buffer.busy) return false;
  // The header waits for the gradients before it, those after it would wait for the header.
  if (gradient && (header_due_ || headers_due_)) return false;
  if (!buffer.present) {
    const uint64_t bytes =
        gradient ? layout().gradient_bytes(layer) : layout().working_bytes(layer);
    if (!give_memory(buffer, bytes)) return false;
    if (!gradient || gradient_written_[layer]) {
      buffer.missing = layout().segment_count(layer);
      const bool stale = !gradient && stale_[layer];
      if (stale) receive_weights(layer);
      const Job job = gradient          ? Job::kLoadGradient
                      : pending_[layer] ? Job::kUpdate
                                        : Job::kLoadWeights;
      if (buffer.missing > 0) queue_layer(loads_, layer, {job, 0, /*deliver=*/true, stale});
    }
    if (!gradient) {
      pending_[layer] = false;
      ++weight_reads_[layer];
    }
  }
  buffer.busy = true;
  return true;
}

// Starts what transfers it can; true if all of a layer's are on their way, as another layer may
// follow then.
bool FileStorage::issue() {
  const bool stored = issue_layers(stores_);
  const bool loaded = issue_layers(loads_);
  issue_ready();
  write_back();
  const bool short_of_slots = !write_backs_.empty() && !file_->has_spare();
  const bool worth_a_sync = retired_.size() >= options_.buffers;
  if (syncing_.empty() && !retired_.empty() && (short_of_slots || worth_a_sync)) {
    syncing_.swap(retired_);
    transfers_[next_id_] = {Job::kSync};
    file_->file().start_sync(next_id_++);
  }
  return stored || loaded;
}

void FileStorage::queue_layer(std::deque<SegmentTransfer>& queue, size_t layer,
                              SegmentTransfer first) {
  if (layout().segment_count(layer) == 0) return;
  first.segment = layout().first_segment(layer);
  queue.push_back(first);
}

bool FileStorage::issue_layers(std::deque<SegmentTransfer>& queue) {
  bool finished = false;
  while (!queue.empty()) {
    size_t& next = queue.front().segment;
    const size_t layer = segment(next).layer;
    for (const size_t end = layout().first_segment(layer + 1); next < end; ++next) {
      if (!issue_next(queue.front())) return finished;
    }
    queue.pop_front();
    finished = true;
  }
  return finished;
}

// Starts to write what systems have added up, or sent.
void FileStorage::issue_ready() {
  while (!ready_gradients_.empty()) {
    const size_t index = ready_gradients_.front();
    if (state_writes_[segment(index).layer] > 0) break;
    if (!issue_part({Job::kStoreGradient, index})) break;
    ready_gradients_.pop_front();
  }
  while (!ready_weights_.empty() && issue_part({Job::kStoreWeights, ready_weights_.front()})) {
    ready_weights_.pop_front();
  }
}

// Starts what a segment needs, if anything; false if something has to end first.
bool FileStorage::issue_next(SegmentTransfer transfer) {
  const size_t index = transfer.segment, layer = segment(index).layer;
  const bool update = transfer.job == Job::kUpdate || transfer.job == Job::kUpdateNow;
  if ((update || transfer.broadcast) && !layout().is_own(segment(index))) return true;
  if (transfer.job == Job::kUpdate && file_->state_step(index) == update_.step) {
    // It was updated before an interruption.
    transfer.job = Job::kLoadWeights;
    return !transfer.deliver || issue_part(transfer);
  }
  if (update) return issue_update(transfer);
  // What is still to be written cannot be read yet.
  const bool written = state_writes_[layer] + others_writes_[layer] == 0;
  return (transfer.broadcast || written) && issue_part(transfer);
}

// Reads a segment for its update, or makes that at once if the state is in memory.
bool FileStorage::issue_update(SegmentTransfer transfer) {
  const size_t index = transfer.segment;
  const bool own_buffer = is_cached(index);
  if (own_buffer) transfer.block = cache_buffer(index);
  if (own_buffer && in_cache_[index]) {
    if (transfer.job == Job::kUpdate) {
      const MutexLock lock(mutex_);
      if (!stores_.empty() || reducing_ > 0) return false;  // its gradient may be among them
    }
    ++state_writes_[segment(index).layer];
    update_segment(transfer, /*from_disk=*/false);
    return true;
  }
  if (header_due_ || (!own_buffer && free_buffers_.empty())) return false;
  if (!own_buffer) {
    transfer.block = free_buffers_.back();
    free_buffers_.pop_back();
  }
  const SlotParts parts = layout().slot_parts(segment(index));
  const uint64_t begin = transfer.job == Job::kUpdate ? parts.gradient_info : parts.state;
  const uint64_t end = layout().form().has_masters() ? parts.working.at : parts.end;
  ++state_writes_[segment(index).layer];
  std::byte* buffer = buffers_[transfer.block].data();
  start_transfer(
      transfer,
      {false, file_->slot_offset(index) + begin, {std::span(buffer + begin, end - begin)}});
  return true;
}

// Reads or writes weights or a gradient, with the block that describes it.
bool FileStorage::issue_part(SegmentTransfer transfer) {
  if (free_blocks_.empty()) return false;
  transfer.block = free_blocks_.back();
  free_blocks_.pop_back();
  const size_t index = transfer.segment;
  const Segment& s = segment(index);
  const SlotParts parts = layout().slot_parts(s);
  const uint64_t slot = file_->slot_offset(index);
  const std::span<std::byte> info(info_blocks_.data() + transfer.block * kBlockBytes, kBlockBytes);
  const bool write = transfer.job == Job::kStoreGradient || transfer.job == Job::kStoreWeights;
  if (transfer.job == Job::kLoadWeights || transfer.job == Job::kStoreWeights) {
    std::byte* weights = weights_at(index);
    if (write) {
      file_->describe_part(index, Array::kWorking, update_.step, weights, info.data());
    }
    const std::span working(weights, parts.end - parts.working.at);
    start_transfer(transfer, {write, slot + parts.info, {info, working}});
    return true;
  }
  std::byte* part = gradient_at(index);
  const std::span stored(part, parts.exp_avg.at - parts.gradient.at);
  const bool bf16 = layout().form().gradient == GradientForm::kBf16;
  if (write && bf16) to_bf16_in_place(reinterpret_cast<float*>(part), size_t(s.count));
  if (write) {
    file_->describe_part(index, Array::kGradient, file_->step() + 1, part, info.data());
  }
  if (write && is_cached(index)) {
    std::memcpy(buffers_[cache_buffer(index)].data() + parts.gradient.at, part,
                parts.gradient.size_bytes);
  }
  start_transfer(transfer, {write, slot + parts.gradient_info, {info, stored}});
  return true;
}

void FileStorage::start_transfer(const SegmentTransfer& transfer, const Transfer& bytes) {
  part_segment_ = kNone;
  transfers_[next_id_] = transfer;
  file_->file().start(next_id_++, bytes);
}

// A segment is in memory; the others may want it too.
void FileStorage::arrived(const SegmentTransfer& transfer) {
  const MutexLock lock(mutex_);
  const size_t layer = segment(transfer.segment).layer;
  LayerBuffer& buffer = transfer.job == Job::kLoadGradient ? gradients_[layer] : weights_[layer];
  if (--buffer.missing == 0) changed_.notify_all();
  if (transfer.broadcast) broadcast_weights(transfer.segment);
}

void FileStorage::complete(uint64_t id) {
  const auto place = transfers_.find(id);
  const SegmentTransfer transfer = place->second;
  transfers_.erase(place);
  switch (transfer.job) {
    case Job::kSync:
      return give_back(syncing_);
    case Job::kUpdate:
    case Job::kUpdateNow:
      return update_segment(transfer, /*from_disk=*/true);
    case Job::kWriteBack: {
      const uint32_t old = file_->move(transfer.segment, transfer.slot);
      if (keeps_gradients())
        retired_.push_back(old);
      else
        file_->give_back(old);  // the file is worth nothing until all are updated
      if (transfer.block < options_.buffers) free_buffers_.push_back(transfer.block);
      --state_writes_[segment(transfer.segment).layer];
      return;
    }
    default:
      complete_part(transfer);
      free_blocks_.push_back(transfer.block);
  }
}

void FileStorage::complete_part(const SegmentTransfer& transfer) {
  const size_t index = transfer.segment, layer = segment(index).layer;
  const std::byte* info = info_blocks_.data() + transfer.block * kBlockBytes;
  if (transfer.job == Job::kStoreWeights) {
    --others_writes_[layer];
    const MutexLock lock(mutex_);
    segment_left(weights_[layer]);
  } else if (transfer.job == Job::kStoreGradient) {
    const MutexLock lock(mutex_);
    gradient_done(layer);
  } else if (transfer.job == Job::kLoadWeights) {
    file_->check_state_info(index, info);
    file_->check_part(index, Array::kWorking, info, weights_at(index));
    arrived(transfer);
  } else {
    file_->check_gradient_info(index, file_->step() + 1, info);
    file_->check_part(index, Array::kGradient, info, gradient_at(index));
    arrived(transfer);
  }
}

// A segment of the layer's gradient is written, sent, or was used.
void FileStorage::gradient_done(size_t layer) {
  LayerBuffer& buffer = gradients_[layer];
  if (buffer.reducing) --reducing_;
  if (--buffer.missing > 0) return;
  take_memory(buffer);
  buffer.busy = buffer.reducing = false;
}

// The segment's old state is in its buffer; the new one will go to a spare slot.
void FileStorage::update_segment(SegmentTransfer transfer, bool from_disk) {
  const size_t index = transfer.segment;
  const Segment& s = segment(index);
  const SlotParts parts = layout().slot_parts(s);
  std::byte* buffer = buffers_[transfer.block].data();
  if (from_disk) file_->check_state(index, buffer);
  SegmentArrays arrays = arrays_in_slot(layout(), s, buffer);
  Update update = update_;
  if (transfer.job == Job::kUpdateNow) {
    arrays.gradient = gradient_at(index);
    const MutexLock lock(mutex_);
    update = layer_updates_[s.layer];
  } else if (from_disk) {
    const std::byte* info = buffer + parts.gradient_info;
    file_->check_gradient_info(index, update.step, info);
    file_->check_part(index, Array::kGradient, info, buffer + parts.gradient.at);
  }
  update_segment_alone(layout(), s, arrays, update);
  transfer.step = update.step;
  if (transfer.job == Job::kUpdateNow) {
    const MutexLock lock(mutex_);
    gradient_done(s.layer);
  }
  if (transfer.deliver) {
    std::memcpy(weights_at(index), arrays.working, parts.working.size_bytes);
    arrived(transfer);
  }
  if (is_cached(index)) in_cache_[index] = true;
  write_backs_.push_back(transfer);
}

// Until the header says that an update has begun, the file must stay as it was.
void FileStorage::write_back() {
  while (!write_backs_.empty() && !header_due_ && !headers_due_ && file_->has_spare()) {
    SegmentTransfer transfer = write_backs_.front();
    write_backs_.pop_front();
    transfer.job = Job::kWriteBack;
    transfer.slot = file_->take_spare();
    const SlotParts parts = layout().slot_parts(segment(transfer.segment));
    std::byte* buffer = buffers_[transfer.block].data();
    file_->describe_state(transfer.segment, transfer.step, buffer);
    start_transfer(transfer,
                   {true, file_->offset_of(transfer.slot) + parts.state, {parts.state_in(buffer)}});
  }
}

// After a sync: the old places of updated segments can be used again.
void FileStorage::give_back(std::vector<uint32_t>& slots) {
  for (const uint32_t slot : slots) file_->give_back(slot);
  slots.clear();
}

}  // namespace gigagpt::engine
