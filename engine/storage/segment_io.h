// Moves a store's segments between its file and memory, checks their sums and makes their updates:
// what a Schedule decides. Use from one thread; it uses no OpenMP.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/async_file.h"
#include "engine/state/segment_math.h"
#include "engine/state/state_file.h"
#include "engine/storage/schedule.h"

namespace gigagpt::engine {

class SegmentIo {
 public:
  // Has a buffer of a slot for each that the limits allow for. With `poison` memory that a layer
  // gives up is filled with NaNs. The layout must outlive it.
  SegmentIo(const StateLayout& layout, std::unique_ptr<StateFile> file,
            const ScheduleLimits& limits, bool poison);

  StateFile& file() { return *file_; }
  const StateFile& file() const { return *file_; }

  // Memory of layers, in the order of StateLayout.
  // New, or what is unused in that place.
  void give_memory(size_t layer, bool gradient, std::optional<size_t> reused);
  void take_memory(size_t layer, bool gradient);
  void free_memory();
  std::byte* layer_memory(size_t layer, bool gradient) {
    return (gradient ? gradients_ : weights_)[layer].data();
  }
  std::byte* weights_at(size_t segment);
  float* gradient_at(size_t segment);

  void start(const SegmentJob& job);  // its transfer
  // The job that is over, its sums checked; nothing if the file was woken.
  std::optional<SegmentJob> wait();
  // What the update of the segment in the job's buffer needs whole: see segment_math.h.
  std::vector<ops::WholeParam> whole_params(const SegmentJob& job, const Update& update);
  // Updates the segment in the job's buffer, with its gradient there or, for kUpdateNow, in the
  // layer's memory, and delivers the new weights where they are wanted.
  void update(const SegmentJob& job, const Update& update);

  // Single values, at once; nothing may be under way. Elements from `first` of the layer that lie
  // in the segment of that place.
  void read(const SegmentPlace& place, Array kept, int64_t first, std::span<float> values);
  // Writing goes on in one segment until it is stored. One that has no slot yet is zeros at first.
  void begin_edit(const SegmentPlace& place);
  const std::optional<SegmentPlace>& edited() const { return edited_; }
  void write(Array kept, int64_t first, std::span<const float> values);
  void store_edited(const SegmentPlace& place);  // where it is from here on

 private:
  const Segment& segment(size_t index) const { return layout_.segments()[index]; }
  SlotParts parts_of(size_t index) const { return layout_.slot_parts(segment(index)); }
  SegmentArrays arrays_of(const SegmentJob& job);
  std::byte* slot_memory(size_t buffer) { return buffers_[buffer].data(); }
  void start_part(const SegmentJob& job);
  void start_state(const SegmentJob& job);
  void start_write_back(const SegmentJob& job);
  void start(const SegmentJob& job, const Transfer& bytes);
  void check(const SegmentJob& job);
  void load_part(const SegmentPlace& place, Array kept);
  void run(bool write, const SegmentPlace& place, std::span<std::byte> part);

  const StateLayout& layout_;
  const size_t first_cached_;  // of the buffers
  const bool poison_;
  std::vector<PageBuffer> weights_, gradients_;  // per layer
  std::vector<PageBuffer> unused_;               // memory that can be given again
  std::vector<PageBuffer> buffers_;              // of a slot each
  PageBuffer info_blocks_;
  // What is in the first of the buffers: a segment that is written to, or one part of one.
  std::optional<SegmentPlace> edited_, part_of_;
  Array part_ = Array::kMaster;
  std::map<uint64_t, SegmentJob> under_way_;
  uint64_t next_id_ = 1;
  // It goes early, as it waits for transfers into the buffers.
  std::unique_ptr<StateFile> file_;
};

}  // namespace gigagpt::engine
