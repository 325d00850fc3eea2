// How much memory tensors take.
#pragma once

#include <cstdint>

namespace gigagpt::ops {

// Counts the CPU tensors that are allocated while it lives, of all threads, from whatever allocator
// there is. One at a time.
class AllocationCount {
 public:
  AllocationCount();
  ~AllocationCount();
  AllocationCount(const AllocationCount&) = delete;
  AllocationCount& operator=(const AllocationCount&) = delete;

  int64_t alive_bytes() const;  // of these tensors, now
};

}  // namespace gigagpt::ops
