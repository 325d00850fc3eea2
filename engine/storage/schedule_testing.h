// For tests only: a caller, a disk and other systems around a Schedule, as values that can be
// copied and told apart.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/storage/schedule.h"

namespace gigagpt::engine {

// What a caller does, one after the other.
struct Op {
  enum Kind {
    kExpect,
    kAcquire,
    kRelease,
    kReduce,
    kAwaitReduced,
    kUpdateLayer,
    kDefer,
    kSettle,
    kAbandon,
    kWork
  };
  Kind kind;
  Request request = {};
  int64_t step = 0;
};

struct Case {
  std::string name;
  ScheduleLimits limits;
  int windows = 1;
  int systems = 1;
  int64_t steps = 2;
  bool abandons = false;  // a first try of the last step
  bool keeps = false;     // weights from the forward to the backward pass
  bool by_layer = false;  // updates in the backward pass, and no gradients in the file
  bool waits = false;     // updates wait for directions, which are made in any order
};

inline std::vector<Case> small_cases() {
  return {
      Case{"plain", {.buffers = 1, .info_blocks = 2, .ahead = 2}},
      Case{"cached", {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 2}},
      Case{"all_cached",
           {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 4},
           1,
           1,
           3,
           false,
           true},
      Case{"by_layer", {.buffers = 1, .info_blocks = 1, .ahead = 2}, 1, 1, 2, false, false, true},
      Case{"by_layer_cached",
           {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 2},
           1,
           1,
           2,
           false,
           true,
           true},
      Case{"systems_by_layer",
           {.buffers = 1, .info_blocks = 1, .ahead = 2, .has_peers = true},
           1,
           2,
           2,
           false,
           false,
           true},
      Case{"windows", {.buffers = 1, .info_blocks = 1, .ahead = 1}, 2},
      Case{"little_memory", {.buffers = 1, .info_blocks = 1, .ahead = 2, .memory_bytes = 1}},
      Case{"abandons", {.buffers = 1, .info_blocks = 1, .ahead = 2}, 1, 1, 1, true},
      Case{"systems", {.buffers = 1, .info_blocks = 1, .ahead = 1, .has_peers = true}, 1, 2, 2},
      Case{"systems_cached",
           {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 2, .has_peers = true},
           1,
           2,
           2,
           false,
           true},
      Case{"directions",
           {.buffers = 2, .info_blocks = 1, .ahead = 1},
           1,
           1,
           2,
           false,
           false,
           false,
           true},
      Case{"directions_cached",
           {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 2},
           1,
           1,
           2,
           false,
           true,
           false,
           true},
      Case{"directions_by_layer",
           {.buffers = 2, .info_blocks = 1, .ahead = 1},
           1,
           1,
           1,
           false,
           false,
           true,
           true},
      Case{"directions_systems",
           {.buffers = 1, .info_blocks = 1, .ahead = 1, .cached = 1, .has_peers = true},
           1,
           2,
           2,
           false,
           false,
           false,
           true}};
}

// One part of a slot: what a read finds there, and whether that has been on the disk since a sync.
struct Part {
  size_t segment = ~size_t{0};
  int64_t step = -1;
  bool moving = false;   // being written
  bool synced = true;    // survives a loss of power
  bool in_sync = false;  // will be when the sync under way ends
  bool is(size_t s, int64_t at) const { return segment == s && step == at && !moving; }
  bool survives(size_t s, int64_t at) const { return is(s, at) && synced; }
};

struct Disk {
  std::vector<Part> states, gradients;  // per slot
  int64_t step = 0;                     // of the header
  bool pending = false;
};

// A caller, a disk and other systems around a schedule.
struct World {
  Schedule schedule;
  Disk disk;
  std::vector<Op> program;
  size_t at = 0;              // in the program
  bool waits = false;         // has said that it waits for an answer
  size_t answers = 0;         // that it has not taken
  std::vector<bool> reduced;  // per layer
  std::vector<SegmentJob> under_way = {}, updating = {};
  std::vector<size_t> reducing = {}, sending = {}, receiving = {};  // segments
  std::vector<size_t> due = {};  // segments that are to be updated, and not written yet
  bool meeting = false, met = true;
  bool settling = false, abandoning = false, working = false;
};

// Writes numbers one after the other.
class Text {
 public:
  template <class... Numbers>
  void add(Numbers... numbers) {
    GIGAGPT_ASSERT(size_ + (sizeof numbers + ...) <= bytes_.size());
    ((std::memcpy(&bytes_[size_], &numbers, sizeof numbers), size_ += sizeof numbers), ...);
  }
  template <class Range, class Add>
  void each(const Range& range, const Add& add_one) {
    add(uint16_t(range.size()));
    for (const auto& one : range) add_one(one);
  }
  void job(const SegmentJob& j) {
    add(uint8_t(j.job), uint8_t(j.segment), j.deliver, j.broadcast, uint8_t(j.buffer),
        uint8_t(j.slot), uint8_t(j.step));
  }
  void request(const Request& r) { add(uint8_t(r.layer), r.gradient, r.keep); }
  void parts(const std::vector<Part>& all) {
    each(all, [&](const Part& p) {
      add(uint8_t(p.segment), uint8_t(p.step), p.moving, p.synced, p.in_sync);
    });
  }
  size_t hash() const { return std::hash<std::string_view>()({bytes_.data(), size_}); }

 private:
  std::array<char, 4096> bytes_;
  size_t size_ = 0;
};

// A hash of all that tells worlds apart.
inline size_t hash_of(const World& world) {
  Text t;
  const auto number = [&](auto n) { t.add(uint8_t(n)); };
  const auto job = [&](const SegmentJob& j) { t.job(j); };
  const auto request = [&](const Request& r) { t.request(r); };
  const Schedule::State& s = world.schedule.state();
  t.each(s.slots.slots, number), t.each(s.slots.steps, number), t.each(s.slots.spares, number);
  t.each(s.slots.retired, number), t.each(s.slots.syncing, number);
  t.add(uint8_t(s.update_step), uint8_t(s.answered), uint8_t(s.under_way), uint8_t(s.updating),
        uint8_t(s.reducing), uint8_t(s.broadcasting), s.header_due, s.headers_due,
        s.deferring.has_value(), s.settling, s.abandoning, s.working, s.waiting);
  for (const Schedule::Layer& layer : s.layers) {
    for (const Schedule::Buffer& b : {layer.weights, layer.gradient}) {
      t.add(uint8_t(b.missing), uint8_t(b.leaving), b.present, b.busy, b.dropped, b.reducing,
            b.held);
    }
    t.add(layer.gradient_written, layer.stale, layer.pending, uint8_t(layer.unreduced),
          uint8_t(layer.state_writes), uint8_t(layer.others_writes));
  }
  t.each(s.in_cache, number), t.each(s.expected, request), t.each(s.started, request);
  t.each(s.stores, job), t.each(s.loads, job), t.each(s.write_backs, job);
  t.each(s.ready_gradients, number), t.each(s.ready_weights, number);
  t.each(s.free_buffers, number), t.each(s.free_blocks, number);
  t.each(s.actions, [&](const Action& a) {
    t.add(uint8_t(a.kind), uint8_t(a.index), a.gradient);
    t.job(a.job), t.request(a.request);
  });
  t.add(s.held_bytes), t.each(s.unused, [&](uint64_t bytes) { t.add(bytes); });
  t.parts(world.disk.states), t.parts(world.disk.gradients);
  t.add(uint8_t(world.disk.step), world.disk.pending, uint8_t(world.at), world.waits,
        uint8_t(world.answers), world.meeting, world.met, world.settling, world.abandoning,
        world.working);
  t.each(world.reduced, number), t.each(world.under_way, job), t.each(world.updating, job);
  t.each(world.reducing, number);
  t.each(world.due, number), t.each(world.sending, number), t.each(world.receiving, number);
  return t.hash();
}

}  // namespace gigagpt::engine
