// Loops over independent tasks on ATen's threads.
#pragma once

#include <ATen/Parallel.h>
#include <omp.h>

#include <algorithm>
#include <cstddef>

namespace gigagpt::ops {

// ATen settles its number of threads when it first runs a loop; ours may come before.
inline int thread_count() {
  static const bool settled = (at::init_num_threads(), true);
  return settled && at::in_parallel_region() ? 1 : at::get_num_threads();
}

// f(task, thread) for every task < count, handed out as threads become free. f must not throw.
template <class F>
void parallel_tasks(size_t count, const F& f) {
  const int threads = thread_count();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (count > 1)
  for (size_t task = 0; task < count; ++task) f(task, omp_get_thread_num());
}

// f(begin, end, thread) for as many even parts of [0, count) as there are threads (fewer if parts
// would be smaller than `least`), so that what is summed up per part has a fixed order.
template <class F>
void parallel_parts(size_t count, size_t least, const F& f) {
  const size_t most = (count + least - 1) / least;
  const size_t parts = std::min(most, size_t(thread_count()));
  parallel_tasks(
      parts, [&](size_t part, int) { f(count * part / parts, count * (part + 1) / parts, part); });
}

}  // namespace gigagpt::ops
