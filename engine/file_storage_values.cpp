// Reading and writing single values of a FileStorage, a segment at a time in the first of its
// buffers.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "engine/file_storage.h"

namespace gigagpt::engine {

void FileStorage::errand(const std::function<void()>& work) {
  std::unique_lock lock(mutex_);
  GIGAGPT_ASSERT(expected_.empty() && started_.empty());
  errand_ = work;
  file_->file().wake();
  changed_.wait(lock, [&] { return error_ != nullptr || !errand_; });
  if (error_) std::rethrow_exception(error_);
}

void FileStorage::read(Kept kept, size_t layer, int64_t first, std::span<float> values) {
  errand([&] {
    while (!values.empty()) {
      const size_t index = layout().segment_of(layer, first);
      const Segment& s = segment(index);
      const SlotParts parts = layout().slot_parts(s);
      const auto piece = values.first(std::min(values.size(), size_t(s.begin + s.count - first)));
      load_part(index, kept);
      const std::byte* slot = buffers_[0].data();
      if (layout().training()) {
        std::memcpy(piece.data(), slot + parts.at(kept) + 4 * (first - s.begin),
                    piece.size_bytes());
      } else {
        const uint64_t at = layout().working_at(layer, first) - layout().working_at(layer, s.begin);
        from_working(layout(), layer, first, slot + parts.working + at, piece);
      }
      values = values.subspan(piece.size());
      first += int64_t(piece.size());
    }
  });
}

void FileStorage::load_part(size_t index, Kept kept) {
  if (part_segment_ == index && part_ == kept) return;
  part_segment_ = kNone;
  const SlotParts parts = layout().slot_parts(segment(index));
  std::byte* slot = buffers_[0].data();
  AsyncFile& file = file_->file();
  const bool gradient = kept == Kept::kGradient;
  const uint64_t info = gradient ? parts.gradient_info : parts.info;
  const uint64_t at = layout().training() ? parts.at(kept) : parts.working;
  const uint64_t bytes = layout().training() ? parts.array_bytes : parts.end - parts.working;
  const auto part = [&](uint64_t begin, uint64_t size) {
    file.run({false, file_->slot_offset(index) + begin, {std::span(slot + begin, size)}});
  };
  part(info, kBlockBytes);
  part(at, bytes);
  if (gradient) {
    file_->check_gradient_info(index, file_->header().step + 1, slot + info);
  } else {
    file_->check_state_info(index, slot + info);
  }
  if (layout().training())
    file_->check_part(index, kept, slot + info, slot + at);
  else
    file_->check_working(index, slot + info, slot + at);
  part_segment_ = index;
  part_ = kept;
}

void FileStorage::begin_writing(int64_t step) {
  errand([&] { in_cache_.assign(cached_, false); });
  step_ = step;
}

void FileStorage::write(Kept kept, size_t layer, int64_t first, std::span<const float> values) {
  errand([&] {
    while (!values.empty()) {
      const size_t index = layout().segment_of(layer, first);
      const Segment& s = segment(index);
      const SlotParts parts = layout().slot_parts(s);
      const auto piece = values.first(std::min(values.size(), size_t(s.begin + s.count - first)));
      load_for_edit(index);
      std::byte* slot = buffers_[0].data();
      if (layout().training()) {
        std::memcpy(slot + parts.at(kept) + 4 * (first - s.begin), piece.data(),
                    piece.size_bytes());
      }
      if (kept == Kept::kMaster) {
        const uint64_t at = layout().working_at(layer, first) - layout().working_at(layer, s.begin);
        to_working(layout(), layer, first, piece, slot + parts.working + at);
      }
      values = values.subspan(piece.size());
      first += int64_t(piece.size());
    }
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
    const uint64_t begin = layout().training() ? parts.exp_avg : parts.info;
    file_->file().run(
        {false, file_->slot_offset(index) + begin, {std::span(slot + begin, parts.end - begin)}});
    file_->check_state_info(index, slot + parts.info);
  }
  edited_ = index;
}

void FileStorage::store_edited() {
  if (edited_ == kNone) return;
  const SlotParts parts = layout().slot_parts(segment(edited_));
  std::byte* slot = buffers_[0].data();
  if (!file_->has_slot(edited_)) file_->move(edited_, file_->take_spare());
  file_->describe_state(edited_, step_, slot);
  const uint64_t begin = layout().training() ? parts.exp_avg : parts.info;
  file_->file().run(
      {true, file_->slot_offset(edited_) + begin, {std::span(slot + begin, parts.end - begin)}});
  edited_ = kNone;
}

void FileStorage::finish_writing() {
  errand([&] {
    for (size_t i = 0; i < layout().segments().size(); ++i) {
      if (!file_->has_slot(i)) load_for_edit(i);
    }
    store_edited();
    file_->write_header({step_, /*pending=*/false, {}});
  });
}

}  // namespace gigagpt::engine
