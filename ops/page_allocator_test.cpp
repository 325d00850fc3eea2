#include "ops/page_allocator.h"

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <cstring>

namespace gigagpt::ops {
namespace {

// As LibTorch does for the scratch memory of its own bf16 products.
TEST(PageAllocator, MemoryOfAnySizeIsTakenAndGivenBackWithoutADataPtr) {
  use_page_allocator();
  for (const size_t bytes : {size_t{16}, size_t{1} << 20, size_t{3} << 20}) {
    void* memory = c10::GetCPUAllocator()->raw_allocate(bytes);
    ASSERT_NE(memory, nullptr);
    std::memset(memory, 1, bytes);
    c10::GetCPUAllocator()->raw_deallocate(memory);
  }
}

}  // namespace
}  // namespace gigagpt::ops
