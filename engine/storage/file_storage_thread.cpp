// The thread of a FileStorage. It runs no OpenMP: the update's arithmetic is a plain loop.
#include <algorithm>
#include <cstring>

#include "base/error.h"
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

void FileStorage::run() {
  try {
    for (;;) {
      do {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
        take_news();
        while (accept()) {
        }
        counts_.read_bytes = file_->file().read_bytes();
        counts_.write_bytes = file_->file().written_bytes();
      } while (issue());
      if (const auto id = file_->file().wait()) complete(*id);
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    changed_.notify_all();
  }
}

// Does what requests allow by now; true if there may be more. With the lock.
bool FileStorage::accept() {
  if (deferring_ && !write_backs_.empty()) return false;  // of the update before
  if (deferring_) {
    update_ = *std::exchange(deferring_, std::nullopt);
    header_due_ = true;
    pending_.assign(pending_.size(), true);
    stale_.assign(stale_.size(), !cluster().is_alone());
    gradient_written_.assign(gradient_written_.size(), false);
  }
  if (finish_requests()) return true;
  if (settling_) {
    for (size_t i = 0; i < pending_.size(); ++i) {
      if (!pending_[i]) continue;
      pending_[i] = false;
      moves_.push_back({Job::kUpdate, i, 0, /*deliver=*/false});
    }
    return false;
  }
  if (expected_.empty() || started_.size() >= options_.ahead || !start(expected_.front())) {
    return false;
  }
  started_.push_back(expected_.front());
  expected_.pop_front();
  changed_.notify_all();
  return true;
}

// Requests that wait until nothing is under way. True if one was done.
bool FileStorage::finish_requests() {
  if (header_due_ && stores_.empty() && flights_.empty() && reducing_ == 0) {
    file_->write_header({update_.step, /*pending=*/true, update_});
    give_back(retired_);
    header_due_ = false;
    headers_due_ = !cluster().is_alone();
    if (headers_due_) exchange_.meet([this] { tell({News::kAllMet}); });
    return true;
  }
  if (header_due_ || headers_due_ || !idle()) return false;
  const bool updated = std::none_of(pending_.begin(), pending_.end(), [](bool b) { return b; });
  if (abandoning_) {
    expected_.clear();
    started_.clear();
    for (auto* all : {&weights_, &gradients_}) {
      for (Held& memory : *all) {
        if (memory.present) take_memory(memory);
        memory.busy = false;
      }
    }
    gradient_written_.assign(gradient_written_.size(), false);
    abandoning_ = false;
  } else if (settling_ && updated) {
    if (file_->header().pending || file_->header().step != step_) {
      file_->write_header({step_, /*pending=*/false, {}});
      give_back(retired_);
    }
    settling_ = false;
  } else if (errand_) {
    errand_();
    errand_ = nullptr;
  } else {
    return false;
  }
  changed_.notify_all();
  return true;
}

// Begins to fill the memory that a need asks for, if it can. Needs for the same memory take turns.
bool FileStorage::start(const Need& need) {
  Held& memory = held(need);
  if (memory.busy) return false;
  // The header waits for the gradients before it, those after it would wait for the header.
  if (need.gradient && (header_due_ || headers_due_)) return false;
  const uint64_t bytes =
      need.gradient ? layout().gradient_bytes(need.layer) : layout().working_bytes(need.layer);
  if (!memory.present) {
    if (!give_memory(memory, bytes)) return false;
    if (!need.gradient || gradient_written_[need.layer]) {
      memory.missing = layout().segment_count(need.layer);
      const bool stale = !need.gradient && stale_[need.layer];
      if (stale) receive_weights(need.layer);
      const Job job = need.gradient          ? Job::kLoadGradient
                      : pending_[need.layer] ? Job::kUpdate
                                             : Job::kLoadWeights;
      if (memory.missing > 0) moves_.push_back({job, need.layer, 0, /*deliver=*/true, stale});
    }
    if (!need.gradient) {
      pending_[need.layer] = false;
      ++weight_reads_[need.layer];
    }
  }
  memory.busy = true;
  return true;
}

bool FileStorage::give_memory(Held& memory, uint64_t bytes) {
  const auto same = std::find_if(unused_.begin(), unused_.end(), [&](const PageBuffer& unused) {
    return unused.size_bytes() - bytes < kBlockBytes;
  });
  if (same != unused_.end()) {
    memory.memory = std::move(*same);
    unused_.erase(same);
  } else {
    while (held_bytes_ + bytes > options_.memory_bytes && !unused_.empty()) {
      held_bytes_ -= unused_.back().size_bytes();
      unused_.pop_back();
    }
    // Nobody else can free any, so what is waited for gets it.
    const bool needed = waiting_ && started_.empty() && idle();
    if (held_bytes_ + bytes > options_.memory_bytes && !needed) return false;
    memory.memory = PageBuffer(bytes);
    held_bytes_ += memory.memory.size_bytes();
  }
  memory.present = true;
  return true;
}

void FileStorage::take_memory(Held& memory) {
  if (options_.poison) std::memset(memory.memory.data(), 0xFF, memory.memory.size_bytes());
  unused_.push_back(std::move(memory.memory));
  memory.present = false;
  memory.missing = 0;
}

// Starts what transfers it can; true if a whole move is on its way, as another may follow then.
bool FileStorage::issue() {
  bool finished = false;
  for (auto* moves : {&stores_, &moves_}) {
    for (;;) {
      Move move;
      {
        const std::lock_guard lock(mutex_);  // callers add to stores_
        if (moves->empty()) break;
        move = moves->front();
      }
      bool stuck = false;
      while (!stuck && move.next < layout().segment_count(move.layer)) stuck = !issue_next(move);
      const std::lock_guard lock(mutex_);
      moves->front() = move;
      if (stuck) break;
      moves->pop_front();
      finished = true;
    }
  }
  issue_ready();
  write_back();
  const bool short_of_slots = !write_backs_.empty() && !file_->has_spare();
  const bool worth_a_sync = retired_.size() >= options_.buffers;
  if (syncing_.empty() && !retired_.empty() && (short_of_slots || worth_a_sync)) {
    syncing_.swap(retired_);
    flights_[next_id_] = {Job::kSync};
    file_->file().start_sync(next_id_++);
  }
  return finished;
}

// Starts a move's next segment; false if something has to end first.
bool FileStorage::issue_next(Move& move) {
  const size_t index = layout().first_segment(move.layer) + move.next;
  Flight flight = {move.job, index, 0, 0, move.deliver, move.share};
  bool issued = true;
  const bool update = move.job == Job::kUpdate || move.job == Job::kUpdateNow;
  if ((update || move.share) && !layout().is_own(segment(index))) {
    ++move.next;  // its owner's
    return true;
  }
  if (move.job == Job::kUpdateNow) {
    issued = issue_update(flight);
  } else if (move.job == Job::kUpdate && file_->state_step(index) == update_.step) {
    // It was updated before an interruption.
    flight.job = Job::kLoadWeights;
    issued = !move.deliver || issue_part(flight);
  } else if (move.job == Job::kUpdate) {
    issued = issue_update(flight);
  } else {
    // What is still to be written cannot be read yet.
    const bool written = state_writes_[move.layer] + others_writes_[move.layer] == 0;
    issued = (move.share || written) && issue_part(flight);
  }
  if (issued) ++move.next;
  return issued;
}

// Reads a segment for its update, or makes that at once if the state is in memory.
bool FileStorage::issue_update(Flight flight) {
  const size_t index = flight.segment;
  const bool own_buffer = is_cached(index);
  if (own_buffer) flight.block = buffer_of(index);
  if (own_buffer && in_cache_[index]) {
    if (flight.job == Job::kUpdate) {
      const std::lock_guard lock(mutex_);
      if (!stores_.empty() || reducing_ > 0) return false;  // its gradient may be among them
    }
    ++state_writes_[segment(index).layer];
    update_segment(flight, /*from_disk=*/false);
    return true;
  }
  if (header_due_ || (!own_buffer && free_buffers_.empty())) return false;
  if (!own_buffer) {
    flight.block = free_buffers_.back();
    free_buffers_.pop_back();
  }
  const SlotParts parts = layout().slot_parts(segment(index));
  const uint64_t begin = flight.job == Job::kUpdate ? parts.gradient_info : parts.state;
  const uint64_t end = layout().form().has_masters() ? parts.working.at : parts.end;
  ++state_writes_[segment(index).layer];
  std::byte* buffer = buffers_[flight.block].data();
  start_flight(
      flight, {false, file_->slot_offset(index) + begin, {std::span(buffer + begin, end - begin)}});
  return true;
}

// Reads weights, or reads or writes a gradient, with the block that describes it.
bool FileStorage::issue_part(Flight flight) {
  if (free_blocks_.empty()) return false;
  flight.block = free_blocks_.back();
  free_blocks_.pop_back();
  const size_t index = flight.segment;
  const Segment& s = segment(index);
  const SlotParts parts = layout().slot_parts(s);
  const uint64_t slot = file_->slot_offset(index);
  const std::span<std::byte> info(info_blocks_.data() + flight.block * kBlockBytes, kBlockBytes);
  if (flight.job == Job::kLoadWeights) {
    std::byte* to = weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin);
    start_flight(flight, {false, slot + parts.info, {info, {to, parts.end - parts.working.at}}});
    return true;
  }
  if (flight.job == Job::kStoreWeights) {
    std::byte* from = weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin);
    file_->describe_weights(index, update_.step, from, info.data());
    start_flight(flight, {true, slot + parts.info, {info, {from, parts.end - parts.working.at}}});
    return true;
  }
  std::byte* part = gradients_[s.layer].memory.data() + 4 * s.begin;
  const std::span stored(part, parts.exp_avg.at - parts.gradient.at);
  const bool write = flight.job == Job::kStoreGradient;
  const bool narrow = layout().form().gradient == GradientForm::kBf16;
  if (write && narrow) to_bf16_in_place(reinterpret_cast<float*>(part), size_t(s.count));
  if (write) file_->describe_gradient(index, file_->header().step + 1, part, info.data());
  if (write && is_cached(index)) {
    std::memcpy(buffers_[buffer_of(index)].data() + parts.gradient.at, part,
                parts.gradient.size_bytes);
  }
  start_flight(flight, {write, slot + parts.gradient_info, {info, stored}});
  return true;
}

void FileStorage::start_flight(const Flight& flight, const Transfer& transfer) {
  part_segment_ = kNone;
  flights_[next_id_] = flight;
  file_->file().start(next_id_++, transfer);
}

// A segment is in memory; the others may want it too.
void FileStorage::arrived(const Flight& flight) {
  const std::lock_guard lock(mutex_);
  const size_t layer = segment(flight.segment).layer;
  Held& memory = flight.job == Job::kLoadGradient ? gradients_[layer] : weights_[layer];
  if (--memory.missing == 0) changed_.notify_all();
  if (flight.share) share(flight.segment);
}

void FileStorage::complete(uint64_t id) {
  const auto place = flights_.find(id);
  const Flight flight = place->second;
  flights_.erase(place);
  if (flight.job == Job::kSync) {
    return give_back(syncing_);
  }
  const Segment& s = segment(flight.segment);
  const bool update = flight.job == Job::kUpdate || flight.job == Job::kUpdateNow;
  if (update) return update_segment(flight, /*from_disk=*/true);
  if (flight.job == Job::kWriteBack) {
    const uint32_t old = file_->move(flight.segment, flight.slot);
    if (keeps_gradients())
      retired_.push_back(old);
    else
      file_->give_back(old);  // the file is worth nothing until all are updated
    if (flight.block < options_.buffers) free_buffers_.push_back(flight.block);
    --state_writes_[s.layer];
    return;
  }
  const std::byte* info = info_blocks_.data() + flight.block * kBlockBytes;
  if (flight.job == Job::kStoreWeights) {
    --others_writes_[s.layer];
    const std::lock_guard lock(mutex_);
    one_left(weights_[s.layer]);
  } else if (flight.job == Job::kLoadWeights) {
    file_->check_state_info(flight.segment, info);
    file_->check_working(flight.segment, info,
                         weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin));
    arrived(flight);
  } else if (flight.job == Job::kLoadGradient) {
    file_->check_gradient_info(flight.segment, file_->header().step + 1, info);
    file_->check_part(flight.segment, Kept::kGradient, info,
                      gradients_[s.layer].memory.data() + 4 * s.begin);
    arrived(flight);
  } else {
    const std::lock_guard lock(mutex_);
    gradient_done(s.layer);
  }
  free_blocks_.push_back(flight.block);
}

// A segment of the layer's gradient is written, sent, or was used. With the lock.
void FileStorage::gradient_done(size_t layer) {
  Held& memory = gradients_[layer];
  if (memory.reducing) --reducing_;
  if (--memory.missing > 0) return;
  take_memory(memory);
  memory.busy = memory.reducing = false;
}

// The segment's old state is in its buffer; the new one will go to a spare slot.
void FileStorage::update_segment(Flight flight, bool from_disk) {
  const size_t index = flight.segment;
  const Segment& s = segment(index);
  const SlotParts parts = layout().slot_parts(s);
  std::byte* buffer = buffers_[flight.block].data();
  if (from_disk) file_->check_state(index, buffer);
  const bool now = flight.job == Job::kUpdateNow;
  if (from_disk && !now) {
    const std::byte* info = buffer + parts.gradient_info;
    file_->check_gradient_info(index, update_.step, info);
    file_->check_part(index, Kept::kGradient, info, buffer + parts.gradient.at);
  }
  const Update& update = now ? layer_updates_[s.layer] : update_;
  SegmentArrays arrays = arrays_in_slot(layout(), s, buffer);
  if (now) arrays.gradient = gradients_[s.layer].memory.data() + 4 * s.begin;
  update_segment_alone(layout(), s, arrays, update);
  flight.step = update.step;
  if (now) {
    const std::lock_guard lock(mutex_);
    gradient_done(s.layer);
  }
  if (flight.deliver) {
    const uint64_t begin = layout().working_at(s.layer, s.begin);
    std::memcpy(weights_[s.layer].memory.data() + begin, arrays.working,
                layout().working_at(s.layer, s.begin + s.count) - begin);
    arrived(flight);
  }
  if (is_cached(index)) in_cache_[index] = true;
  write_backs_.push_back(flight);
}

// Until the header says that an update has begun, the file must stay as it was.
void FileStorage::write_back() {
  while (!write_backs_.empty() && !header_due_ && !headers_due_ && file_->has_spare()) {
    Flight flight = write_backs_.front();
    write_backs_.pop_front();
    flight.job = Job::kWriteBack;
    flight.slot = file_->take_spare();
    const SlotParts parts = layout().slot_parts(segment(flight.segment));
    std::byte* buffer = buffers_[flight.block].data();
    file_->describe_state(flight.segment, flight.step, buffer);
    start_flight(flight,
                 {true, file_->offset_of(flight.slot) + parts.state, {parts.state_in(buffer)}});
  }
}

// After a sync: the old places of updated segments can be used again.
void FileStorage::give_back(std::vector<uint32_t>& slots) {
  for (const uint32_t slot : slots) file_->give_back(slot);
  slots.clear();
}

}  // namespace gigagpt::engine
