// What the commands that compute have in common.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <thread>

#include "base/error.h"
#include "base/system.h"
#include "cli/display.h"
#include "engine/run/store.h"

namespace gigagpt::cli {

// The cores of a machine are shared by its systems. Throws Error if the threads cannot be had.
inline void set_threads(int64_t wanted, int systems_here = 1) {
  constexpr int kOthers = 8;  // for files, and for messages between systems
  const int most = 8 * int(std::thread::hardware_concurrency());
  if (wanted > most) {
    fail("threads: {} are too many for a machine with {} cores; leave the key out for one a core",
         wanted, std::thread::hardware_concurrency());
  }
  const int threads = wanted > 0 ? int(wanted) : std::max(1, core_count() / systems_here);
  check_threads(threads + kOthers);
  at::set_num_threads(threads);  // also those of OpenMP, which oneDNN uses
}

inline engine::Progress follow(Display& display, const char* what) {
  return [&display, what](double share) {
    display.share(what, share);
    return true;
  };
}

}  // namespace gigagpt::cli
