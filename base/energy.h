// The energy that this machine's processors and memory take, as RAPL counts it (Intel's and AMD's
// "running average power limit"; Linux, Documentation/power/powercap/powercap.rst).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace gigagpt {

class EnergyMeter {
 public:
  // Begins to count. `root` is where Linux has its counters, of which only root may read on most
  // machines.
  explicit EnergyMeter(const Path& root = "/sys/class/powercap");

  // Joules since then; null where the counters cannot be read. Ask at least every ten minutes:
  // counters begin anew after some.
  std::optional<double> joules();

 private:
  struct Counter {
    Path file;
    double last_uj = 0, range_uj = 0;  // microjoules; after `range_uj` it begins at 0
  };
  std::vector<Counter> counters_;
  double joules_ = 0;
};

}  // namespace gigagpt
