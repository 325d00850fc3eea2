// A look at a store's segments, one by one, that goes on whatever is wrong with them.
#include "base/error.h"
#include "engine/state/segment_math.h"
#include "engine/state/state_file.h"

namespace gigagpt::engine {

std::vector<std::string> StateFile::inspect_segment(size_t segment, InspectedValues& values) {
  std::vector<std::string> problems;
  values = {};
  if (!is_found(segment)) {
    return {fmt::format("{} is missing: no slot holds it whole as of step {}", place_name(segment),
                        step())};
  }
  // Notes what the check throws; whether it threw nothing.
  const auto passes = [&](const auto& check) {
    try {
      check();
      return true;
    } catch (const Error& error) {
      problems.emplace_back(error.what());
      return false;
    }
  };
  const Segment& s = layout_.segments()[segment];
  const SlotParts parts = parts_of(segment);
  const bool owes_update = layout_.training() && slots_.steps[segment] < step();
  const SegmentPlace place = place_of(segment);
  const uint64_t begin = owes_update ? parts.gradient_info : parts.state;
  const PageBuffer memory(parts.end);
  std::byte* slot = memory.data();
  const bool usable = passes([&] {
    const auto bytes = memory.bytes().subspan(begin, parts.end - begin);
    file_.run({false, offset_of(place) + begin, {bytes}});
    check_state_info(place, slot + parts.info);
  });
  if (!usable) return problems;
  const auto part_passes = [&](Array kept, uint64_t info) {
    return passes([&] { check_part(place, kept, slot + info, slot + parts.of(kept).at); });
  };
  const bool working = part_passes(Array::kWorking, parts.info);
  for (const Array kept : {Array::kMaster, Array::kExpAvg, Array::kExpAvgSq}) {
    const bool master = kept == Array::kMaster;
    if (!layout_.form().keeps(kept)) continue;
    const bool is_working = master && !layout_.form().has_masters();
    if (is_working ? !working : !part_passes(kept, parts.info)) continue;
    values[size_t(kept)] = read_segment(layout_, s, arrays_in_slot(layout_, s, slot), kept);
  }
  if (!owes_update) return problems;
  const bool described =
      passes([&] { check_gradient_info(place, step(), slot + parts.gradient_info); });
  if (described) part_passes(Array::kGradient, parts.gradient_info);
  return problems;
}

}  // namespace gigagpt::engine
