// Which slot of a store holds which segment, and which may be written to. Plain bookkeeping, no
// file: what keeps a store whole through a crash is here, and in Schedule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/error.h"

namespace gigagpt::engine {

// A segment's new content goes to a spare slot, so that the old one stays whole until the new one
// is on the disk: an old slot is retired, and spare after a sync that began later.
struct SlotTable {
  static constexpr uint32_t kNone = ~0U;

  std::vector<uint32_t> slots = {};  // per segment
  std::vector<int64_t> steps = {};   // per segment: of its state, as last written
  std::vector<uint32_t> spares = {};
  std::vector<uint32_t> retired = {}, syncing = {};  // old slots, before and during a sync

  SlotTable() = default;
  explicit SlotTable(size_t segments) : slots(segments, kNone), steps(segments, -1) {}

  bool has_slot(size_t segment) const { return slots[segment] != kNone; }
  uint32_t take_spare() {
    GIGAGPT_ASSERT(!spares.empty());
    const uint32_t slot = spares.back();
    spares.pop_back();
    return slot;
  }
  // The segment is in that slot now; returns the one that it was in, or kNone.
  uint32_t move(size_t segment, uint32_t slot) { return std::exchange(slots[segment], slot); }
  // What was written before is durable.
  void after_sync(std::vector<uint32_t>& old) {
    spares.insert(spares.end(), old.begin(), old.end());
    old.clear();
  }
};

}  // namespace gigagpt::engine
