// Reading and writing single values of a FileStorage, a segment at a time in the first of its
// buffers.
#include <algorithm>
#include <cstring>

#include "engine/storage/file_storage.h"

namespace gigagpt::engine {

// Calls visit(segment, its element that the piece begins with, piece) for what of `values` lies in
// each segment.
template <class Values, class Visit>
void FileStorage::in_segments(size_t layer, int64_t first, Values values, const Visit& visit) {
  while (!values.empty()) {
    const size_t index = layout().segment_of(layer, first);
    const Segment& s = segment(index);
    const auto piece = values.first(std::min(values.size(), size_t(s.begin + s.count - first)));
    visit(index, first, piece);
    values = values.subspan(piece.size());
    first += int64_t(piece.size());
  }
}

void FileStorage::read(Array kept, size_t layer, int64_t first, std::span<float> values) {
  run_on_thread([&] {
    thread_role_.assert_held();
    in_segments(layer, first, values, [&](size_t index, int64_t begin, std::span<float> piece) {
      thread_role_.assert_held();
      load_part(index, kept);
      read_values(layout(), segment(index), edited_arrays(index), kept, begin, piece);
    });
  });
}

void FileStorage::load_part(size_t index, Array kept) {
  if (part_segment_ == index && part_ == kept) return;
  part_segment_ = kNone;
  const SlotParts parts = layout().slot_parts(segment(index));
  std::byte* slot = buffers_[0].data();
  const bool gradient = kept == Array::kGradient;
  const bool working = kept == Array::kMaster && !layout().form().has_masters();
  const Array stored = working ? Array::kWorking : kept;
  const SlotPart part = parts.of(stored);
  std::byte* info = slot + (gradient ? parts.gradient_info : parts.info);
  const std::span values(slot + part.at, whole_blocks(part.size_bytes));
  for (const auto& bytes : {std::span(info, kBlockBytes), values}) {
    const auto place = uint64_t(bytes.data() - slot);
    file_->file().run({false, file_->slot_offset(index) + place, {bytes}});
  }
  if (gradient)
    file_->check_gradient_info(index, file_->step() + 1, info);
  else
    file_->check_state_info(index, info);
  file_->check_part(index, stored, info, values.data());
  part_segment_ = index;
  part_ = kept;
}

void FileStorage::begin_writing(int64_t step) {
  run_on_thread([&] {
    thread_role_.assert_held();
    in_cache_.assign(in_cache_.size(), false);
  });
  const MutexLock lock(mutex_);
  stale_.assign(stale_.size(), has_peers_);
  step_ = step;
}

void FileStorage::write(Array kept, size_t layer, int64_t first, std::span<const float> values) {
  run_on_thread([&] {
    thread_role_.assert_held();
    in_segments(layer, first, values,
                [&](size_t index, int64_t begin, std::span<const float> piece) {
                  thread_role_.assert_held();
                  if (!layout().is_own(segment(index))) return;
                  load_for_edit(index);
                  write_values(layout(), segment(index), edited_arrays(index), kept, begin, piece);
                });
  });
}

void FileStorage::load_for_edit(size_t index) {
  if (edited_ == index) return;
  store_edited();
  part_segment_ = kNone;
  const SlotParts parts = layout().slot_parts(segment(index));
  std::byte* slot = buffers_[0].data();
  if (!file_->has_slot(index)) {
    std::memset(slot, 0, layout().slot_bytes());
  } else {
    file_->file().run({false, file_->slot_offset(index) + parts.state, {parts.state_in(slot)}});
    file_->check_state_info(index, slot + parts.info);
  }
  edited_ = index;
}

void FileStorage::store_edited() {
  if (edited_ == kNone) return;
  const SlotParts parts = layout().slot_parts(segment(edited_));
  std::byte* slot = buffers_[0].data();
  if (!file_->has_slot(edited_)) file_->move(edited_, file_->take_spare());
  file_->describe_state(edited_, step(), slot);
  file_->file().run({true, file_->slot_offset(edited_) + parts.state, {parts.state_in(slot)}});
  edited_ = kNone;
}

void FileStorage::finish_writing() {
  run_on_thread([&] {
    thread_role_.assert_held();
    for (size_t i = 0; i < layout().segments().size(); ++i) {
      if (layout().is_own(segment(i)) && !file_->has_slot(i)) load_for_edit(i);
    }
    store_edited();
    file_->write_header(step());
  });
}

}  // namespace gigagpt::engine
