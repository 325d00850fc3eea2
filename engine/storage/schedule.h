// What the thread of a FileStorage does next: events in, actions out. Pure bookkeeping without
// bytes, files, threads or clocks, so that schedule_test.cpp can go through every order in which
// things may happen, and crash at each.
//
// What keeps the file whole:
// (a) a slot is written to again only after a sync that began when its segment's new content was
//     written (without gradients in the file, which is worth nothing meanwhile, at once);
// (b) updated segments are written when the headers of all systems say that the update has begun;
// (c) a header is written when nothing is on its way: no transfer, no gradient to be stored, no
//     reduction;
// (d) a gradient is stored while no updated state of its layer is on its way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "engine/state/layout.h"
#include "engine/state/slot_table.h"
#include "engine/storage/storage.h"

namespace gigagpt::engine {

enum class Job {
  kLoadWeights,
  kLoadGradient,
  kStoreGradient,
  kUpdate,     // with the gradient in the file
  kUpdateNow,  // with the one in memory
  kWriteBack,
  kStoreWeights,  // that another system has updated
  kSync
};

// What is done with one segment; in a queue that of a layer's next one, which those after it
// follow.
struct SegmentJob {
  Job job = Job::kSync;
  size_t segment = 0;
  bool deliver = true;               // an update's weights are wanted in memory
  bool broadcast = false;            // and by the other systems, which send theirs
  size_t buffer = 0;                 // for a slot's content; or the info block of a part
  uint32_t slot = SlotTable::kNone;  // where the segment is, or what is written back goes
  int64_t step = 0;                  // of the state that is there, or comes there
};

struct Action {
  enum class Kind {
    kStart,          // the job's transfer; completed() says when it is over
    kBeginUpdate,    // updates are the one that was deferred last from here on
    kUpdate,         // an update whose state is in the job's buffer; sooner or later updated()
    kWriteHeader,    // that the update has begun, all before it durable; then header_written()
    kMeet,           // ask for all_met() when all systems have come here
    kWriteSettled,   // a header without an update, if one is due; then settled()
    kWork,           // what work() asked for, while nothing is on its way; then work_done()
    kReduce,         // add up the segment's gradient over all systems; then reduced()
    kBroadcast,      // the segment's weights to or from others; then weights_sent() or _received()
    kGiveMemory,     // for a layer's weights or gradient: new, or what is unused in that place
    kTakeMemory,     // put it with what is unused
    kFreeMemory,     // free what was put there last
    kAnswer,         // the request is there
    kAnswerReduced,  // the layer's gradient is added up
    kAnswerDropped   // everything that was expected is dropped
  };
  Kind kind = Kind::kStart;
  SegmentJob job = {};
  size_t index = 0;  // segment, or layer
  bool gradient = false;
  std::optional<size_t> reused = {};  // its place among what is unused
  Request request = {};
};

struct ScheduleLimits {
  size_t buffers = 8;       // of slots that are on their way through an update
  size_t info_blocks = 64;  // parts that are on their way at once
  size_t ahead = 4;         // requests that are filled before they are acquired
  size_t cached = 0;        // of the first segments, whose state stays in buffers of their own
  uint64_t memory_bytes = ~uint64_t{0};  // for weights and gradients of layers
  bool has_peers = false;                // other systems
};

class Schedule {
 public:
  // The layout must outlive it. `step` is that of the file's header.
  Schedule(const StateLayout& layout, const ScheduleLimits& limits, SlotTable slots, int64_t step);

  // What callers of the storage ask for.
  void expect(const Request& request) { state_.expected.push_back(request); }
  void wait_for_answer() { state_.waiting = true; }
  void acquired();
  void release(const Request& request);
  void reduce(size_t layer, bool hold);
  void release_reduced(size_t layer);
  void update_layer(size_t layer, int64_t step);
  void defer(int64_t step);
  void settle();
  void abandon() { state_.abandoning = true; }
  void work();

  // What other systems have done.
  void reduced(size_t segment);
  void weights_sent(size_t segment);
  void weights_received(size_t segment);
  void all_met() { state_.headers_due = false; }

  // What has become of actions.
  void completed(const SegmentJob& job);
  void updated(const SegmentJob& job);
  void header_written();
  void settled(bool wrote_header);
  void work_done() { state_.working = false; }

  // What is to be done now, one thing at a time; nothing if something has to happen first.
  std::optional<Action> next();

  // For work(): nothing is pending, or in buffers or on other systems, any more.
  void forget_updates();
  void forget_copies();
  SlotTable& slots() { return state_.slots; }
  int64_t weight_reads(size_t layer) const { return state_.layers[layer].weight_reads; }

  // A layer's working weights, or its gradient, in memory.
  struct Buffer {
    size_t missing = 0;     // segments still to arrive, or to be written
    size_t leaving = 0;     // segments that are being sent, or written, from here
    bool present = false;   // there is memory, filled or being filled
    bool busy = false;      // from the start of a request to its release, or until it is written
    bool dropped = false;   // released, and free when none is leaving
    bool reducing = false;  // each missing segment counts in State::reducing too
    bool held = false;      // when reduced, until it is released
  };
  struct Layer {
    Buffer weights, gradient;
    bool gradient_written = false;  // in this step
    bool stale = false;             // the other systems' weights are still to come from them
    bool pending = false;           // its update is still to be made
    size_t unreduced = 0;           // segments of its gradient
    size_t state_writes = 0;        // updates, begun or asked for, that are not in the file yet,
    size_t others_writes = 0;       // and weights from other systems
    int64_t weight_reads = 0;
  };
  struct State {
    SlotTable slots;
    int64_t update_step = 0;  // of the last update, deferred or asked for layer by layer
    std::vector<Layer> layers;
    std::vector<bool> in_cache;             // per segment: its buffer holds the current state
    std::deque<Request> expected, started;  // not started; not acquired
    size_t answered = 0;                    // of the first that are started
    // In order; what frees gradients goes first.
    std::deque<SegmentJob> stores, loads;
    std::deque<SegmentJob> write_backs;                 // updated, and not being written yet
    std::deque<size_t> ready_gradients, ready_weights;  // segments to be written
    std::deque<Action> actions;                         // decided
    std::vector<size_t> free_buffers, free_blocks;
    size_t under_way = 0;                          // transfers
    size_t updating = 0;                           // segments whose update is being made
    size_t reducing = 0, broadcasting = 0;         // segments on their way between systems
    bool header_due = false, headers_due = false;  // of this system, of all
    std::optional<int64_t> deferring = {};         // an update's step
    bool settling = false, abandoning = false, working = false, waiting = false;
    uint64_t held_bytes = 0;            // of memory given out and unused
    std::vector<uint64_t> unused = {};  // sizes
  };
  const State& state() const { return state_; }

 private:
  enum class Issued { kStarted, kNothing, kBlocked };

  void accept();
  bool due();
  bool start(const Request& request);
  void answer();
  void issue();
  bool issue_layers(std::deque<SegmentJob>& queue);
  Issued issue_next(SegmentJob job);
  Issued issue_update(SegmentJob job);
  Issued issue_part(SegmentJob job);
  bool issue_ready();
  bool issue_write_back();
  void begin(const SegmentJob& job);
  void begin_update(const SegmentJob& job, bool first);
  void act(Action::Kind kind, size_t index, bool gradient = false);
  void queue_layer(std::deque<SegmentJob>& queue, size_t layer, SegmentJob first);
  void receive_weights(size_t layer);
  void broadcast(size_t segment);
  void drop_all();
  bool give_memory(size_t layer, bool gradient);
  void take_memory(size_t layer, bool gradient);
  void gradient_done(size_t layer);
  void reduction_released(size_t segment);
  void weights_left(size_t layer);
  void arrived(const SegmentJob& job);
  bool is_idle() const;
  bool keeps_gradients() const { return layout_->form().gradient != GradientForm::kNone; }
  bool is_own(size_t segment) const { return layout_->is_own(layout_->segments()[segment]); }
  bool is_cached(size_t segment) const;
  size_t layer_of(size_t segment) const { return layout_->segments()[segment].layer; }
  Buffer& buffer_of(size_t layer, bool gradient) {
    return gradient ? state_.layers[layer].gradient : state_.layers[layer].weights;
  }
  uint64_t bytes_of(size_t layer, bool gradient) const;

  const StateLayout* layout_;
  ScheduleLimits limits_;
  State state_;
};

}  // namespace gigagpt::engine
