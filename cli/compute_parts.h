// What the commands that compute have in common.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/system.h"
#include "cli/display.h"
#include "engine/run/store.h"

namespace gigagpt::cli {

// The cores of a machine are shared by its systems.
inline void set_threads(int64_t wanted, int systems_here = 1) {
  const int share = std::max(1, core_count() / systems_here);
  // Also pulls up the number of OpenMP threads that oneDNN uses.
  at::set_num_threads(wanted > 0 ? int(wanted) : share);
}

inline engine::Progress follow(Display& display, const char* what) {
  return [&display, what](double share) {
    display.share(what, share);
    return true;
  };
}

}  // namespace gigagpt::cli
