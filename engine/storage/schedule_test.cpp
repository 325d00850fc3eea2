// A Schedule in every order in which things can happen, for small cases: what a caller does, what
// transfers end when, what other systems send when. Each state that can be reached is visited once,
// and in each the power may go: the file must then hold a whole step.
#include <gtest/gtest.h>

#include <algorithm>
#include <unordered_set>

#include "base/error.h"
#include "engine/storage/schedule_testing.h"

namespace gigagpt::engine {
namespace {

class Explorer {
 public:
  explicit Explorer(const Case& given)
      : case_(given),
        layout_(specs(),
                {Precision::kFp32, true, false,
                 given.by_layer ? GradientForm::kNone : GradientForm::kFp32},
                2048, {0, given.systems}) {}

  static std::vector<LayerSpec> specs() {
    return {{"a", "a.", {{"v", {4000}}}}, {"b", "b.", {{"v", {3000}}}}};
  }
  const StateLayout& layout() const { return layout_; }

  World start(int64_t step, const std::vector<bool>& updated) const {
    const size_t segments = layout_.segments().size();
    const size_t slots = layout_.own_segments() + 2 * case_.limits.buffers;
    Disk disk{std::vector<Part>(slots), std::vector<Part>(slots), step, /*pending=*/step > 0};
    SlotTable table(segments);
    uint32_t slot = 0;
    for (size_t i = 0; i < segments; ++i) {
      if (!is_own(i)) continue;
      table.slots[i] = slot;
      table.steps[i] = step == 0 || updated[i] ? step : step - 1;
      disk.states[slot] = {i, table.steps[i]};
      disk.gradients[slot] = {i, step > 0 && !updated[i] ? step : -1};
      ++slot;
    }
    for (uint32_t spare = slot; spare < slots; ++spare) table.spares.push_back(spare);
    return {.schedule = Schedule(layout_, case_.limits, std::move(table), step),
            .disk = std::move(disk),
            .program = program(step),
            .reduced = std::vector<bool>(2)};
  }

  // Visits every state that can be reached from there.
  void explore(World first) {
    std::vector<World> left = {std::move(first)};
    while (!left.empty() && !testing::Test::HasFailure()) {
      const World world = std::move(left.back());
      left.pop_back();
      expect_recoverable(world);
      bool moved = false;
      const auto go = [&](const auto& change) {
        World next = world;
        change(next);
        moved = true;
        if (seen_.insert(hash_of(next)).second) left.push_back(std::move(next));
      };
      if (can_call(world)) go([&](World& next) { call(next); });
      for (size_t i = 0; i < world.reducing.size(); ++i)
        go([&](World& next) { next.schedule.reduced(take(next.reducing, i)); });
      for (size_t i = 0; i < world.sending.size(); ++i)
        go([&](World& next) { next.schedule.weights_sent(take(next.sending, i)); });
      for (size_t i = 0; i < world.receiving.size(); ++i)
        go([&](World& next) { next.schedule.weights_received(take(next.receiving, i)); });
      for (size_t i = 0; i < world.updating.size(); ++i)
        go([&](World& next) { next.schedule.updated(take(next.updating, i)); });
      if (world.meeting) {
        go([](World& next) {
          next.meeting = false;
          next.met = true;
          next.schedule.all_met();
        });
      }
      Schedule thread = world.schedule;
      auto action = thread.next();
      while (action && is_memory(*action)) action = thread.next();  // which nobody else sees
      if (action) {
        go([&](World& next) {
          next.schedule = thread;
          perform(next, *action);
        });
      } else {
        for (size_t i = 0; i < world.under_way.size(); ++i) {
          go([&](World& next) {
            next.schedule = thread;
            complete(next, take(next.under_way, i));
          });
        }
      }
      if (!moved) expect_done(world);
    }
  }
  size_t states() const { return seen_.size(); }
  size_t ends() const { return ends_; }  // of those from which nothing follows

 private:
  template <class T>
  static T take(std::vector<T>& from, size_t i) {
    const T taken = from[i];
    from.erase(from.begin() + int64_t(i));
    return taken;
  }
  bool is_own(size_t segment) const { return layout_.is_own(layout_.segments()[segment]); }
  size_t layer_of(size_t segment) const { return layout_.segments()[segment].layer; }

  std::vector<Op> program(int64_t step) const {
    std::vector<Op> ops;
    for (int64_t i = 1; i <= case_.steps; ++i) {
      if (case_.abandons && i == case_.steps) {
        add_visits(ops, /*complete=*/false);
        ops.push_back({Op::kAbandon});
      }
      if (case_.by_layer) ops.push_back({Op::kWork, {}, -1});
      add_visits(ops, /*complete=*/true, step + i);
      if (case_.by_layer)
        add_evaluation(ops);
      else
        ops.push_back({Op::kDefer, {}, step + i});
    }
    ops.push_back({Op::kSettle});
    ops.push_back({Op::kWork});
    return ops;
  }

  // Forward and backward through both layers.
  void add_visits(std::vector<Op>& ops, bool complete, int64_t step = 0) const {
    std::vector<Request> requests;
    for (int window = 0; window < case_.windows; ++window) {
      for (const size_t layer : {0, 1}) requests.push_back({layer, false, case_.keeps});
      for (const size_t layer : {1, 0}) {
        requests.push_back({layer, false});
        requests.push_back({layer, true});
      }
    }
    for (const Request& request : requests) ops.push_back({Op::kExpect, request});
    if (!complete) requests.resize(requests.size() - 2);
    for (size_t i = 0; i < requests.size(); ++i) {
      const Request& request = requests[i];
      const bool last = i + 6 >= requests.size();
      ops.push_back({Op::kAcquire, request});
      const bool shared = case_.systems > 1 && request.gradient && last && complete;
      const bool now = case_.by_layer && request.gradient && complete;
      if (shared) ops.push_back({Op::kReduce, request});
      if (shared && now) ops.push_back({Op::kAwaitReduced, request});
      if (now)
        ops.push_back({Op::kUpdateLayer, request, step});
      else if (!shared)
        ops.push_back({Op::kRelease, request});
    }
    if (case_.by_layer) return;
    for (const size_t layer : {1, 0}) {
      if (case_.systems > 1 && complete) ops.push_back({Op::kAwaitReduced, {layer, true}});
    }
  }

  static void add_evaluation(std::vector<Op>& ops) {
    for (const size_t layer : {0, 1}) ops.push_back({Op::kExpect, {layer, false}});
    for (const size_t layer : {0, 1}) {
      ops.push_back({Op::kAcquire, {layer, false}});
      ops.push_back({Op::kRelease, {layer, false}});
    }
  }

  static bool is_memory(const Action& action) {
    using Kind = Action::Kind;
    return action.kind == Kind::kGiveMemory || action.kind == Kind::kTakeMemory ||
           action.kind == Kind::kFreeMemory || action.kind == Kind::kBeginUpdate;
  }

  bool can_call(const World& world) const {
    if (world.settling || world.abandoning || world.working) return false;
    if (world.at == world.program.size()) return false;
    const Op& op = world.program[world.at];
    if (op.kind == Op::kAcquire) return world.answers > 0 || !world.waits;
    return op.kind != Op::kAwaitReduced || world.reduced[op.request.layer];
  }

  void call(World& world) const {
    const Op& op = world.program[world.at];
    if (op.kind == Op::kAcquire && world.answers == 0) {
      world.waits = true;
      return world.schedule.wait_for_answer();
    }
    ++world.at;
    switch (op.kind) {
      case Op::kExpect:  // all at once, as the mailbox has them
        world.schedule.expect(op.request);
        if (world.program[world.at].kind == Op::kExpect) call(world);
        return;
      case Op::kAcquire:
        --world.answers;
        world.waits = false;
        return world.schedule.acquired();
      case Op::kRelease:
        return world.schedule.release(op.request);
      case Op::kReduce:
        world.reduced[op.request.layer] = false;
        return world.schedule.reduce(op.request.layer, /*hold=*/false);
      case Op::kAwaitReduced:
        return;
      case Op::kUpdateLayer:
        for (size_t i = 0; i < layout_.segments().size(); ++i) {
          if (is_own(i) && layer_of(i) == op.request.layer) world.due.push_back(i);
        }
        return world.schedule.update_layer(op.request.layer, op.step);
      case Op::kDefer:
        return world.schedule.defer(op.step);
      case Op::kSettle:
        world.settling = true;
        return world.schedule.settle();
      case Op::kAbandon:
        world.abandoning = true;
        return world.schedule.abandon();
      case Op::kWork:
        world.working = true;
        return world.schedule.work();
    }
  }

  void perform(World& world, const Action& action) const {
    using Kind = Action::Kind;
    switch (action.kind) {
      case Kind::kStart:
        return start_job(world, action.job);
      case Kind::kUpdate: {
        SegmentJob job = action.job;
        EXPECT_EQ(job.step, world.schedule.state().update_step - 1) << "made of another state";
        job.step = world.schedule.state().update_step;
        if (case_.waits) return world.updating.push_back(job);
        return world.schedule.updated(job);
      }
      case Kind::kWriteHeader:
        EXPECT_TRUE(world.under_way.empty() && world.reducing.empty()) << "(c)";
        return write_header(world, world.schedule.state().update_step, /*pending=*/true);
      case Kind::kMeet:
        world.meeting = true;
        return;
      case Kind::kWriteSettled: {
        EXPECT_TRUE(world.under_way.empty() && world.reducing.empty()) << "(c)";
        const int64_t step = world.schedule.state().update_step;
        const bool due = world.disk.pending || world.disk.step != step;
        if (due) write_header(world, step, /*pending=*/false);
        world.settling = false;
        return world.schedule.settled(due);
      }
      case Kind::kWork:
        EXPECT_TRUE(world.under_way.empty() && world.updating.empty());
        if (world.program[world.at - 1].step < 0) write_header(world, -1, /*pending=*/false);
        world.working = false;
        return world.schedule.work_done();
      case Kind::kReduce:
        return world.reducing.push_back(action.index);
      case Kind::kBroadcast:
        return (is_own(action.index) ? world.sending : world.receiving).push_back(action.index);
      case Kind::kAnswer:
        ++world.answers;
        return;
      case Kind::kAnswerReduced:
        world.reduced[action.index] = true;
        return;
      case Kind::kAnswerDropped:
        world.answers = 0;
        world.waits = world.abandoning = false;
        return;
      default:
        return;  // memory
    }
  }

  void write_header(World& world, int64_t step, bool pending) const {
    for (auto* parts : {&world.disk.states, &world.disk.gradients}) {
      for (Part& part : *parts) part.synced = true;
    }
    world.disk.step = step;
    world.disk.pending = pending;
    if (!pending) return;
    world.met = false;
    world.schedule.header_written();
  }

  void start_job(World& world, const SegmentJob& job) const {
    Disk& disk = world.disk;
    const size_t s = job.segment;
    world.under_way.push_back(job);
    switch (job.job) {
      case Job::kSync:
        for (auto* parts : {&disk.states, &disk.gradients}) {
          for (Part& part : *parts) part.in_sync = !part.moving;
        }
        return;
      case Job::kLoadWeights:
        EXPECT_TRUE(!is_own(s) || disk.states[job.slot].is(s, job.step)) << "reads other weights";
        EXPECT_EQ(std::count(world.due.begin(), world.due.end(), s), 0) << "before their update";
        return;
      case Job::kUpdateNow:
        EXPECT_TRUE(disk.states[job.slot].is(s, world.schedule.state().update_step - 1));
        return;
      case Job::kLoadGradient:
        EXPECT_TRUE(!is_own(s) || disk.gradients[job.slot].is(s, disk.step + 1));
        return;
      case Job::kUpdate:
        EXPECT_TRUE(disk.states[job.slot].is(s, disk.step - 1)) << "updates another state";
        EXPECT_TRUE(disk.gradients[job.slot].is(s, disk.step)) << "with another gradient";
        EXPECT_TRUE(disk.pending) << "before its header";
        return;
      case Job::kStoreGradient:
        if (!is_own(s)) return;
        EXPECT_EQ(world.schedule.state().layers[layer_of(s)].state_writes, 0U) << "(d)";
        return begin_write(disk.gradients[job.slot], s, disk.step + 1);
      case Job::kWriteBack:
        EXPECT_TRUE(case_.by_layer ? disk.step == -1
                                   : disk.pending && disk.step == job.step && world.met)
            << "(b)";
        return begin_write(disk.states[job.slot], s, job.step);
      default:
        return;
    }
  }
  static void begin_write(Part& part, size_t segment, int64_t step) {
    EXPECT_FALSE(part.moving) << "written to twice at once";
    part = {segment, step, /*moving=*/true, /*synced=*/false};
  }

  void complete(World& world, const SegmentJob& job) const {
    Disk& disk = world.disk;
    if (job.job == Job::kSync) {
      for (auto* parts : {&disk.states, &disk.gradients}) {
        for (Part& part : *parts) part.synced |= std::exchange(part.in_sync, false);
      }
    } else if (job.job == Job::kStoreGradient && is_own(job.segment)) {
      disk.gradients[job.slot].moving = false;
    } else if (job.job == Job::kWriteBack) {
      disk.states[job.slot].moving = false;
      std::erase(world.due, job.segment);
    }
    world.schedule.completed(job);
  }

  // If the power goes now: every segment is there, of the header's step or, before its update, with
  // the gradient that it takes.
  void expect_recoverable(const World& world) const {
    const Disk& disk = world.disk;
    if (disk.step < 0) return;  // updated layer by layer, it is worth nothing meanwhile
    for (size_t i = 0; i < layout_.segments().size(); ++i) {
      if (!is_own(i)) continue;
      bool found = false;
      for (size_t slot = 0; slot < disk.states.size(); ++slot) {
        const bool before = disk.pending && disk.states[slot].survives(i, disk.step - 1) &&
                            disk.gradients[slot].survives(i, disk.step);
        found = found || before || disk.states[slot].survives(i, disk.step);
      }
      EXPECT_TRUE(found) << "(a) segment " << i << " is lost at step " << disk.step << " of the op "
                         << world.at;
    }
  }

  void expect_done(const World& world) const {
    EXPECT_EQ(world.at, world.program.size()) << "nothing can happen any more";
    EXPECT_FALSE(world.settling || world.abandoning || world.working);
    EXPECT_FALSE(world.disk.pending);
    EXPECT_EQ(world.disk.step, world.schedule.state().update_step);
    for (size_t i = 0; i < layout_.segments().size(); ++i) {
      const SlotTable& slots = world.schedule.state().slots;
      if (!is_own(i)) continue;
      EXPECT_TRUE(world.disk.states[slots.slots[i]].is(i, world.disk.step));
    }
    ++ends_;
  }

  Case case_;
  StateLayout layout_;
  std::unordered_set<uint64_t> seen_;  // hashes of states
  mutable size_t ends_ = 0;
};

class ScheduleStates : public testing::TestWithParam<Case> {};

TEST_P(ScheduleStates, KeepTheFileWholeInEveryOrder) {
  Explorer explorer(GetParam());
  explorer.explore(explorer.start(0, {}));
  RecordProperty("states", int(explorer.states()));
  EXPECT_GT(explorer.ends(), 0U);
}

// After a crash in the middle of an update, whatever of it was done.
TEST_P(ScheduleStates, FinishAnUpdateThatWasCutOff) {
  Case given = GetParam();
  given.steps = 1;
  if (given.by_layer) return;  // which has none to finish
  Explorer explorer(given);
  const size_t segments = explorer.layout().segments().size();
  for (unsigned set = 0; set < 1U << segments; ++set) {
    std::vector<bool> updated;
    for (size_t i = 0; i < segments; ++i) updated.push_back((set >> i & 1) != 0);
    explorer.explore(explorer.start(1, updated));
  }
  RecordProperty("states", int(explorer.states()));
}

INSTANTIATE_TEST_SUITE_P(Cases, ScheduleStates, testing::ValuesIn(small_cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace gigagpt::engine
