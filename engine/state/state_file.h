// The file that a streamed model's state lives in: header, description, slots
// (docs/FILE_FORMAT.md). Knows what is where and what belongs to which step; moving segments is
// FileStorage's part.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/async_file.h"
#include "engine/state/layout.h"
#include "engine/state/slot_table.h"
#include "engine/state/store_header.h"
#include "engine/state/update.h"

namespace gigagpt::engine {

// Tells a run's files from those of other runs; never 0.
uint64_t draw_run_id();

// Where a segment's content is in the file, and the step that its state is of.
struct SegmentPlace {
  size_t segment = 0;
  uint32_t slot = SlotTable::kNone;  // if it is this system's
  int64_t step = 0;
};

class StateFile {
 public:
  // Reserves the disk space. `spare_slots` is how many segments can be on their way to a new place;
  // `run_id` is one for all files of a run, 0 to draw one.
  static std::unique_ptr<StateFile> create(const Path& path, const StateLayout& layout,
                                           size_t spare_slots, int64_t step_tokens, uint64_t run_id,
                                           const EngineMaker& engine);
  // Throws Error if it is no store, damaged, of a later version or of another model.
  static std::unique_ptr<StateFile> open(const Path& path, const StateLayout& layout,
                                         const EngineMaker& engine);

  // Opens a store of whatever model to look at: it is only read, and segments may be missing. The
  // content may be anything; throws Error for what is no store, in use, or never completed.
  static std::unique_ptr<StateFile> open_to_inspect(const Path& path);

  // What a file says of itself; nothing if it is no store, or was never completed.
  struct Summary {
    uint64_t run_id = 0;
    int64_t step = 0;         // steps completed
    int64_t step_tokens = 0;  // as given to create()
    GradientForm gradient = GradientForm::kFp32;
    uint32_t version = 0;  // of the format
    bool is_old() const { return version == StoreHeader::kOldVersion; }
    std::string id() const;  // as Storage::file_id
  };
  static std::optional<Summary> peek(const Path& path);
  // Where the store of an older version is put, until what it holds is in a new one of its name.
  static Path place_of_older(const Path& path) { return path.string() + ".older"; }
  // As peek(); if the file is still to be made from one of an older version, what that says.
  static std::optional<Summary> peek_or_older(const Path& path);

  // Whether the file has been a store that was completed, and has lost its headers.
  static bool is_damaged(const Path& path);
  // Whether the file is there, and is something else that create() must not replace.
  static bool is_foreign(const Path& path);
  // How large create() makes it.
  static uint64_t planned_bytes(const StateLayout& layout, size_t spare_slots);

  const StateLayout& layout() const { return layout_; }
  AsyncFile& file() { return file_; }
  std::string id() const { return Summary{run_id_}.id(); }
  // The state in the file is that after so many steps (-1: it is being written for the first time),
  // of which the last one's update may be still to be made in some segments.
  int64_t step() const { return update_.step; }
  bool pending() const { return pending_; }
  const Update& update() const { return update_; }
  // Makes everything written so far durable, then the header. Nothing may be under way.
  void write_header(const Update& update, bool pending);
  void write_header(int64_t step) { write_header({.step = step}, /*pending=*/false); }

  // What was found in the slots, for whoever moves segments from here on.
  const SlotTable& slots() const { return slots_; }
  uint64_t offset_of(uint32_t slot) const { return slots_begin_ + slot * layout_.slot_bytes(); }
  // Segments of other systems have places of their own, which hold nothing after a crash.
  uint64_t offset_of(const SegmentPlace& place) const;

  // Fills the block before a state from the parts in `slot`, memory laid out as the slot is.
  void describe_state(size_t segment, int64_t step, std::byte* slot) const;
  // The block before a gradient, or before working weights alone, of another system's segment.
  void describe_part(size_t segment, Array part, int64_t step, const std::byte* bytes,
                     std::byte* info) const;

  // Checks blocks and parts that were read: throws Error naming the segment and what is wrong.
  void check_state_info(const SegmentPlace& place, const std::byte* info) const;
  void check_gradient_info(const SegmentPlace& place, int64_t step, const std::byte* info) const;
  void check_part(const SegmentPlace& place, Array part, const std::byte* info,
                  const std::byte* bytes) const;
  // All that an update needs of a slot but the gradient.
  void check_state(const SegmentPlace& place, const std::byte* slot) const;

  // Reads a segment and checks every part of it, its gradient too where the update is still to be
  // made. Returns all that is wrong with it; `values` are then those of the masters and of both
  // moments, by Array, empty if they are not kept or something is wrong.
  using InspectedValues = std::array<std::vector<float>, 3>;
  std::vector<std::string> inspect_segment(size_t segment, InspectedValues& values);
  uint32_t version() const { return version_; }  // of the format
  int64_t step_tokens() const { return step_tokens_; }
  uint64_t slot_count() const { return slot_count_; }

 private:
  StateFile(const Path& path, AsyncFile::Mode mode, const StateLayout& layout,
            const EngineMaker& engine, uint32_t version);
  static std::pair<StateLayout, uint32_t> layout_in(const Path& path);
  void read_header();
  void find_segments();
  // Of what the header allows for; what is older in a slot is a left-over, whole or not.
  int64_t oldest_step() const { return pending_ ? step() - 1 : step(); }
  bool is_found(size_t segment) const;
  SegmentPlace place_of(size_t segment) const {
    return {segment, slots_.slots[segment], slots_.steps[segment]};
  }
  void check_found() const;
  // Whether all parts of the segment's state in that slot are as their block says.
  bool is_whole(size_t segment, uint32_t slot);
  SlotParts parts_of(size_t segment) const {
    return layout_.slot_parts(layout_.segments()[segment]);
  }
  std::string place_name(size_t segment) const;

  StateLayout layout_;
  AsyncFile file_;
  uint32_t version_;
  uint64_t run_id_ = 0;
  uint64_t sequence_ = 0;  // of the newest header
  int64_t step_tokens_ = 0;
  uint64_t slots_begin_ = 0, slot_count_ = 0;
  std::string description_;
  Update update_ = {.step = -1};  // the last one
  bool pending_ = false;
  SlotTable slots_;
};

}  // namespace gigagpt::engine
