#include "base/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/error.h"

namespace gigagpt {

struct ZoneSum {
  int64_t calls = 0;
  int64_t self_ns = 0;
  double flops = 0;
  double bytes = 0;
};

namespace {

int64_t now_ns() {
  using std::chrono::nanoseconds;
  return nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// 1, 2, 3 ... in the order in which threads first ask.
int thread_number() {
  static std::atomic<int> count = 0;
  thread_local const int number = ++count;
  return number;
}

// The profile. The zones of one thread open and close one at a time, so the time since the last
// opening or closing is all the innermost zone's.
struct Table {
  std::atomic<int> thread = 0;                         // the only one that touches the rest
  std::unordered_map<std::string_view, ZoneSum> sums;  // never erased: zones point to theirs
  ZoneSum* innermost = nullptr;
  int64_t counted_until_ns = 0;
  bool paused = false;

  void count_until(int64_t ns) {
    if (innermost != nullptr && !paused) innermost->self_ns += ns - counted_until_ns;
    counted_until_ns = ns;
  }
};

struct Event {
  const char* name;
  int thread;
  int64_t start_ns;
  int64_t end_ns;
  double flops;
  double bytes;
};

// The newest zones of all threads: a ring once it is full.
struct Trace {
  std::atomic<size_t> size = 0;  // of the full ring; 0: nothing is kept
  std::mutex mutex;              // for what follows
  int64_t start_ns = 0;
  std::vector<Event> events;
  size_t all = 0;  // zones closed since the start

  void add(const Event& event) {
    const std::lock_guard lock(mutex);
    if (size == 0) return;
    if (events.size() < size)
      events.push_back(event);
    else
      events[all % size] = event;
    ++all;
  }
};

Table table;
Trace trace;

// For between the quotes of a JSON string.
std::string escaped(std::string_view name) {
  std::string text;
  for (const char c : name) {
    if (c == '"' || c == '\\') text += '\\';
    text += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return text;
}

// A complete event ("X"): times in microseconds, rates as arguments.
void append_event(std::string& text, const Event& event, int64_t trace_start_ns) {
  const auto duration_ns = double(event.end_ns - event.start_ns);
  fmt::format_to(std::back_inserter(text),
                 R"({{"ph":"X","pid":1,"tid":{},"ts":{:.3f},"dur":{:.3f},"name":"{}")",
                 event.thread, double(event.start_ns - trace_start_ns) / 1e3, duration_ns / 1e3,
                 escaped(event.name));
  std::string rates;
  const auto add_rate = [&](const char* unit, double amount) {
    if (!(amount > 0 && duration_ns > 0)) return;
    rates += fmt::format(R"({}"{}":{:.4g})", rates.empty() ? "" : ",", unit, amount / duration_ns);
  };
  add_rate("GFLOP/s", event.flops);  // 1 a nanosecond is 1e9 a second
  add_rate("GB/s", event.bytes);
  if (!rates.empty()) text += fmt::format(R"(,"args":{{{}}})", rates);
  text += '}';
}

}  // namespace

void Zone::open(const char* name, double flops, double bytes) {
  name_ = name;
  flops_ = flops;
  bytes_ = bytes;
  const bool profiled = thread_number() == table.thread.load(std::memory_order_relaxed);
  if (profiled) sum_ = &table.sums[name];
  start_ns_ = now_ns();
  if (!profiled) return;
  table.count_until(start_ns_);
  outer_ = std::exchange(table.innermost, sum_);
}

void Zone::close() {
  const int64_t end_ns = now_ns();
  if (sum_ != nullptr) {
    table.count_until(end_ns);
    table.innermost = outer_;
    if (!table.paused) {
      sum_->calls += 1;
      sum_->flops += flops_;
      sum_->bytes += bytes_;
    }
  }
  if (trace.size.load(std::memory_order_relaxed) == 0) return;
  trace.add({name_, thread_number(), start_ns_, end_ns, flops_, bytes_});
}

void start_tracing(size_t trace_size) {
  GIGAGPT_ASSERT(table.innermost == nullptr);
  table.thread = thread_number();
  table.paused = false;
  reset_profile();
  {
    const std::lock_guard lock(trace.mutex);
    trace.size = trace_size;
    trace.start_ns = now_ns();
    trace.events.clear();
    trace.events.reserve(trace_size);  // the system gives the memory when it is first used
    trace.all = 0;
  }
  Zone::listening_ = true;
}

void stop_tracing() {
  Zone::listening_ = false;
}

std::vector<ProfileRow> profile() {
  table.count_until(now_ns());
  std::vector<ProfileRow> rows;
  for (const auto& [name, sum] : table.sums) {
    if (sum.calls == 0 && sum.self_ns == 0) continue;
    rows.push_back({std::string(name), sum.calls, double(sum.self_ns) / 1e6, sum.flops, sum.bytes});
  }
  std::sort(rows.begin(), rows.end(), [](const ProfileRow& a, const ProfileRow& b) {
    return a.self_ms != b.self_ms ? a.self_ms > b.self_ms : a.name < b.name;
  });
  return rows;
}

void reset_profile() {
  table.counted_until_ns = now_ns();
  for (auto& [name, sum] : table.sums) sum = {};
}

void pause_profile(bool paused) {
  table.count_until(now_ns());
  table.paused = paused;
}

size_t write_trace(const Path& file) {
  const std::lock_guard lock(trace.mutex);
  std::string text = fmt::format(
      R"({{"traceEvents":[
{{"ph":"M","pid":1,"name":"process_name","args":{{"name":"gigagpt"}}}},
{{"ph":"M","pid":1,"tid":{},"name":"thread_name","args":{{"name":"main"}}}})",
      table.thread.load());
  for (const Event& event : trace.events) {
    text += ",\n";
    append_event(text, event, trace.start_ns);
  }
  text += "\n]}\n";
  write_text_atomically(file, text);
  return trace.all - trace.events.size();
}

}  // namespace gigagpt
