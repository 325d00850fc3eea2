// A look at a store's segments, one by one, that goes on whatever is wrong with them.
#include "base/error.h"
#include "engine/state/segment_math.h"
#include "engine/state/state_file.h"

namespace gigagpt::engine {
void StateFile::inspect_segment(size_t segment, SegmentInspection& look) {
  look.problems.clear();
  for (auto* values : {&look.master, &look.exp_avg, &look.exp_avg_sq}) values->clear();
  if (!is_found(segment)) {
    look.problems.push_back(fmt::format("{} is missing: no slot holds it whole as of step {}",
                                        place_name(segment), header_.step));
    return;
  }
  // Notes what the check throws; whether it threw nothing.
  const auto passes = [&](const auto& check) {
    try {
      check();
      return true;
    } catch (const Error& error) {
      look.problems.emplace_back(error.what());
      return false;
    }
  };
  const Segment& s = layout_.segments()[segment];
  const SlotParts parts = layout_.slot_parts(s);
  const bool owes_update = layout_.training() && state_steps_[segment] < header_.step;
  const uint64_t begin = owes_update ? parts.gradient_info : parts.state;
  const PageBuffer memory(parts.end);
  std::byte* slot = memory.data();
  const bool usable = passes([&] {
    const auto bytes = memory.bytes().subspan(begin, parts.end - begin);
    file_.run({false, slot_offset(segment) + begin, {bytes}});
    check_state_info(segment, slot + parts.info);
  });
  if (!usable) return;
  const auto part_passes = [&](Array kept, uint64_t info) {
    return passes([&] { check_part(segment, kept, slot + info, slot + parts.of(kept).at); });
  };
  const SegmentArrays arrays = arrays_in_slot(layout_, s, slot);
  const bool working =
      passes([&] { check_working(segment, slot + parts.info, slot + parts.working.at); });
  const bool own_master = layout_.form().has_masters();
  if (own_master ? part_passes(Array::kMaster, parts.info) : working) {
    look.master = read_segment(layout_, s, arrays, Array::kMaster);
  }
  for (const Array kept : {Array::kExpAvg, Array::kExpAvgSq}) {
    if (!layout_.training() || !part_passes(kept, parts.info)) continue;
    (kept == Array::kExpAvg ? look.exp_avg : look.exp_avg_sq) =
        read_segment(layout_, s, arrays, kept);
  }
  if (!owes_update) return;
  const bool described =
      passes([&] { check_gradient_info(segment, header_.step, slot + parts.gradient_info); });
  if (described) part_passes(Array::kGradient, parts.gradient_info);
}

}  // namespace gigagpt::engine
