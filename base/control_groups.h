// Limits that containers, systemd and batch systems put on a process, by control groups of version
// 1 or 2: https://docs.kernel.org/admin-guide/cgroup-v2.html
#pragma once

#include <limits>

#include "base/file.h"

namespace gigagpt {

struct GroupLimits {
  // What may still be taken. The page cache of files, which gives way, counts as free.
  double memory_bytes = std::numeric_limits<double>::infinity();
  double cores = std::numeric_limits<double>::infinity();    // CPU time a second
  double threads = std::numeric_limits<double>::infinity();  // that may still be started
};

// The least that the group of this process and those above it allow, as far as this process can see
// them. `root` is where /proc and the rest of the file system begin.
GroupLimits read_group_limits(const Path& root = "/");

}  // namespace gigagpt
