// Where the time goes: named zones of code, summed to a profile and kept as a trace.
//
// All but Zone is for one thread, the one that calls start_tracing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"

namespace gigagpt {

struct ZoneSum;  // what the profile has for one name

// Times the enclosing scope under `name`, a string literal, on any thread. Zones nest. Costs one
// load when nobody listens. `flops` and `bytes` are what the scope computes and moves, if known.
class Zone {
 public:
  explicit Zone(const char* name, double flops = 0, double bytes = 0) {
    if (listening_.load(std::memory_order_relaxed)) open(name, flops, bytes);
  }
  ~Zone() {
    if (name_ != nullptr) close();
  }
  Zone(const Zone&) = delete;
  Zone& operator=(const Zone&) = delete;

 private:
  friend void start_tracing(size_t);
  friend void stop_tracing();
  void open(const char* name, double flops, double bytes);
  void close();
  static inline std::atomic<bool> listening_ = false;
  const char* name_ = nullptr;  // null: nobody listens
  double flops_ = 0;
  double bytes_ = 0;
  int64_t start_ns_ = 0;
  ZoneSum* sum_ = nullptr;    // null on threads that are not in the profile
  ZoneSum* outer_ = nullptr;  // of the zone around this one
};

// Listens to all zones from here on, with an empty profile and an empty trace; no zone may be open
// on this thread. The trace keeps the newest `trace_size` zones, some 50 bytes each.
void start_tracing(size_t trace_size = 0);
void stop_tracing();  // profile and trace stay

// All zones of a name on the thread that listens.
struct ProfileRow {
  std::string name;
  int64_t calls = 0;   // zones closed
  double self_ms = 0;  // inside these zones, but in no zone within them; rows add up
  double flops = 0;
  double bytes = 0;
};
std::vector<ProfileRow> profile();  // since the start or reset_profile; most time first
void reset_profile();
// Time does not count while paused, nor do zones that close meanwhile; the trace goes on.
void pause_profile(bool paused);

// Writes the zones of all threads in Chrome's trace event format, which chrome://tracing and
// https://ui.perfetto.dev show as a time line. Replaces the file as a whole; Error names it.
// Returns how many older zones did not fit in the trace.
size_t write_trace(const Path& file);

}  // namespace gigagpt
