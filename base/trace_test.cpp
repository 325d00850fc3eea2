// Zones: times that add up, in a profile of one thread and a trace of all.
#include "base/trace.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "base/testing.h"

namespace gigagpt {
namespace {

// Profile and trace come from the same readings of the clock, in whole nanoseconds (1e-6 ms), so
// they differ by the rounding of doubles only.
constexpr double kRounding_ms = 1e-7;

// An event as the trace has it.
struct Event {
  int thread = 0;
  double start_ms = 0;
  double duration_ms = 0;
  std::string name;
  std::string rates;  // the rest of the line
};

// The events of a trace file, whose every line must be as it should.
std::vector<Event> events_of(const std::string& text) {
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, R"({"traceEvents":[)");
  for (const char* kind : {R"("name":"process_name")", R"("name":"thread_name")"}) {
    std::getline(lines, line);
    EXPECT_NE(line.find(kind), std::string::npos) << line;
  }
  std::vector<Event> events;
  while (std::getline(lines, line) && line.front() == '{') {
    Event event;
    std::array<char, 100> name{};
    int size = 0;
    EXPECT_EQ(std::sscanf(line.c_str(),
                          R"({"ph":"X","pid":1,"tid":%d,"ts":%lf,"dur":%lf,"name":"%99[^"]"%n)",
                          &event.thread, &event.start_ms, &event.duration_ms, name.data(), &size),
              4)
        << line;
    event.start_ms /= 1e3;
    event.duration_ms /= 1e3;
    event.name = name.data();
    event.rates = line.substr(size_t(size), line.rfind('}') - size_t(size));
    events.push_back(event);
  }
  EXPECT_EQ(line, "]}");
  EXPECT_FALSE(std::getline(lines, line)) << line;
  return events;
}

std::vector<Event> trace_events() {
  const TemporaryDirectory directory;
  write_trace(directory / "trace.json");
  return events_of(read_text(directory / "trace.json"));
}

double trace_ms(const std::string& name) {
  double sum_ms = 0;
  for (const Event& event : trace_events()) sum_ms += event.name == name ? event.duration_ms : 0;
  return sum_ms;
}

std::map<std::string, ProfileRow> rows_by_name() {
  std::map<std::string, ProfileRow> rows;
  for (const ProfileRow& row : profile()) EXPECT_TRUE(rows.emplace(row.name, row).second);
  return rows;
}

// The same by another way: from each event's duration take those of the events directly in it.
std::map<std::string, double> self_times_ms(const std::vector<Event>& events) {
  std::map<std::string, double> times_ms;
  for (const Event& event : events) {
    times_ms[event.name] += event.duration_ms;
    const Event* around = nullptr;  // the shortest that contains it
    for (const Event& other : events) {
      const double before_ms = event.start_ms - other.start_ms;
      const double after_ms = other.duration_ms - before_ms - event.duration_ms;
      if (&other == &event || before_ms < 0 || after_ms < -kRounding_ms) continue;
      if (around == nullptr || other.duration_ms < around->duration_ms) around = &other;
    }
    if (around != nullptr) times_ms[around->name] -= event.duration_ms;
  }
  return times_ms;
}

thread_local volatile int sink = 0;

void work() {
  for (int i = 0; i < 1000; ++i) sink = i;
}

TEST(Trace, OnlyWhatOpensWhileListeningCounts) {
  stop_tracing();
  { const Zone before("before"); }
  {
    const Zone around("around");
    start_tracing(10);
    { const Zone during("during"); }
  }
  stop_tracing();
  { const Zone after("after"); }
  ASSERT_EQ(profile().size(), 1U);
  EXPECT_EQ(profile()[0].name, "during");
  ASSERT_EQ(trace_events().size(), 1U);
  EXPECT_EQ(trace_events()[0].name, "during");
  start_tracing();
  stop_tracing();
  EXPECT_TRUE(profile().empty());
  EXPECT_TRUE(trace_events().empty());
}

TEST(Trace, OwnTimesAddUpToTheOutermostZones) {
  start_tracing(100);
  for (int step = 0; step < 3; ++step) {
    const Zone forward("forward");
    work();
    for (int layer = 0; layer < 4; ++layer) {
      const Zone gemm("gemm", 1000, 10);
      work();
      const Zone copy("copy");
      work();
      const Zone again("gemm", 1000, 10);  // within one of its own name
      work();
    }
    const Zone loss("loss");
    work();
  }
  stop_tracing();
  auto rows = rows_by_name();
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows["forward"].calls, 3);
  EXPECT_EQ(rows["gemm"].calls, 24);
  EXPECT_EQ(rows["copy"].calls, 12);
  EXPECT_EQ(rows["loss"].calls, 3);
  EXPECT_EQ(rows["gemm"].flops, 24000);
  EXPECT_EQ(rows["gemm"].bytes, 240);
  EXPECT_EQ(rows["copy"].flops, 0);
  double sum_ms = 0;
  for (const auto& [name, row] : rows) {
    EXPECT_GT(row.self_ms, 0) << name;
    sum_ms += row.self_ms;
  }
  EXPECT_NEAR(sum_ms, trace_ms("forward"), kRounding_ms);
  EXPECT_NEAR(rows["loss"].self_ms, trace_ms("loss"), kRounding_ms) << "nothing is in it";
  for (const auto& [name, self_ms] : self_times_ms(trace_events())) {
    EXPECT_NEAR(rows[name].self_ms, self_ms, kRounding_ms) << name;
  }
}

TEST(Trace, MostTimeComesFirst) {
  start_tracing();
  for (const char* name : {"a", "b", "c", "d"}) {
    const Zone zone(name);
    work();
  }
  const auto rows = profile();
  ASSERT_EQ(rows.size(), 4U);
  for (size_t i = 1; i < rows.size(); ++i) EXPECT_GE(rows[i - 1].self_ms, rows[i].self_ms);
}

TEST(Trace, NamesAreComparedByTheirText) {
  static const char first[] = "same", second[] = "same";
  start_tracing();
  { const Zone zone(first); }
  { const Zone zone(second); }
  const auto rows = profile();
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].calls, 2);
}

TEST(Trace, PausedTimeDoesNotCount) {
  start_tracing(10);
  {
    const Zone step("step");
    work();
    pause_profile(true);
    {
      const Zone evaluation("evaluation", 5);
      work();
    }
    pause_profile(false);
    work();
  }
  stop_tracing();
  const auto rows = profile();
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].name, "step");
  EXPECT_EQ(rows[0].calls, 1);
  EXPECT_GT(rows[0].self_ms, 0);
  EXPECT_LE(rows[0].self_ms, trace_ms("step") - trace_ms("evaluation") + kRounding_ms);
  EXPECT_EQ(trace_events().size(), 2U) << "the trace goes on";
}

TEST(Trace, ResetForgetsAndLeavesOpenZonesOpen) {
  start_tracing(10);
  {
    const Zone outer("outer");
    {
      const Zone inner("inner", 7, 7);
      work();
    }
    reset_profile();
    EXPECT_EQ(rows_by_name().count("inner"), 0U);
    {
      const Zone inner("inner", 1, 2);
      work();
    }
  }
  auto rows = rows_by_name();
  EXPECT_EQ(rows["inner"].calls, 1);
  EXPECT_EQ(rows["inner"].flops, 1);
  EXPECT_EQ(rows["inner"].bytes, 2);
  EXPECT_EQ(rows["outer"].calls, 1);
  EXPECT_LT(rows["outer"].self_ms + rows["inner"].self_ms, trace_ms("outer"));
}

TEST(Trace, ExceptionsCloseZones) {
  start_tracing(10);
  try {
    const Zone outer("outer");
    const Zone inner("inner");
    throw std::runtime_error("out of both");
  } catch (const std::runtime_error&) {
    work();
  }
  { const Zone next("next"); }
  auto rows = rows_by_name();
  EXPECT_EQ(rows["outer"].calls + rows["inner"].calls + rows["next"].calls, 3);
  EXPECT_NEAR(rows["outer"].self_ms + rows["inner"].self_ms, trace_ms("outer"), kRounding_ms);
}

TEST(Trace, OtherThreadsAreInTheTraceOnly) {
  constexpr int kThreads = 4, kCalls = 500;
  start_tracing(size_t{kThreads} * kCalls * 2);
  const auto zones = [](const char* name) {
    for (int i = 0; i < kCalls; ++i) {
      const Zone outer(name, 1);
      const Zone inner("inner", 1);
      work();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int t = 1; t < kThreads; ++t) threads.emplace_back(zones, "worker");
    zones("main");
  }
  stop_tracing();
  auto rows = rows_by_name();
  EXPECT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows["main"].calls, kCalls);
  EXPECT_EQ(rows["inner"].calls, kCalls);
  EXPECT_EQ(rows["inner"].flops, kCalls);
  std::map<int, std::map<std::string, int>> calls;
  for (const Event& event : trace_events()) ++calls[event.thread][event.name];
  EXPECT_EQ(calls.size(), size_t{kThreads});
  int mains = 0;
  for (auto& [thread, names] : calls) {
    EXPECT_EQ(names["inner"], kCalls);
    mains += names["main"] == kCalls;
    EXPECT_EQ(names["main"] + names["worker"], kCalls);
  }
  EXPECT_EQ(mains, 1);
}

// Tracing that starts and stops while others work; for the sanitizers.
TEST(Trace, StartsAndStopsWhileOthersWork) {
  std::atomic<bool> done = false;
  std::jthread worker([&] {
    while (!done) const Zone zone("worker");
  });
  for (size_t i = 0; i < 200; ++i) {
    start_tracing(i % 3);
    { const Zone zone("main"); }
    EXPECT_EQ(rows_by_name()["main"].calls, 1);
    stop_tracing();
  }
  done = true;
}

TEST(Trace, KeepsTheNewest) {
  const TemporaryDirectory directory;
  start_tracing(3);
  EXPECT_EQ(write_trace(directory / "none"), 0U);
  for (const char* name : {"a", "b", "c", "d", "e"}) const Zone zone(name);
  EXPECT_EQ(write_trace(directory / "some"), 2U);
  std::set<std::string> names;
  for (const Event& event : events_of(read_text(directory / "some"))) names.insert(event.name);
  EXPECT_EQ(names, (std::set<std::string>{"c", "d", "e"}));
  EXPECT_TRUE(events_of(read_text(directory / "none")).empty());
}

TEST(Trace, EventsLieWithinEachOtherAndHaveTheirRates) {
  start_tracing(10);
  {
    const Zone outer("outer");
    work();
    const Zone inner("inner", 1e6, 2e6);
    work();
  }
  const auto events = trace_events();
  ASSERT_EQ(events.size(), 2U);
  const Event &inner = events[0], &outer = events[1];
  EXPECT_EQ(inner.name, "inner");
  EXPECT_EQ(inner.thread, outer.thread);
  EXPECT_GE(inner.start_ms, outer.start_ms);
  EXPECT_LE(inner.start_ms + inner.duration_ms, outer.start_ms + outer.duration_ms + kRounding_ms);
  EXPECT_EQ(outer.rates, "");
  double gflops = 0, gbytes = 0;
  ASSERT_EQ(
      std::sscanf(inner.rates.c_str(), R"(,"args":{"GFLOP/s":%lf,"GB/s":%lf})", &gflops, &gbytes),
      2)
      << inner.rates;
  // Four digits are written: half a unit of the last is at most 5e-4 of the value.
  const double exact = 1e6 / (inner.duration_ms * 1e6);
  EXPECT_NEAR(gflops, exact, 5.1e-4 * exact);
  EXPECT_NEAR(gbytes, 2 * exact, 5.1e-4 * 2 * exact);
}

TEST(Trace, AFileThatCannotBeWrittenIsNamed) {
  const TemporaryDirectory directory;
  start_tracing(1);
  { const Zone zone("zone"); }
  const Path missing = directory / "no" / "trace.json";
  EXPECT_ERROR(write_trace(missing), missing.string());
  EXPECT_FALSE(std::filesystem::exists(directory / "no"));
}

}  // namespace
}  // namespace gigagpt
