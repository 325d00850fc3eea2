// Memory of large tensors. On malloc's heap small objects settle between them, and the holes that
// are left add up to more than the tensors themselves; here each has pages of its own, which are
// kept for the next tensor of about that size instead of going back to the system.
#pragma once

#include <cstdint>

namespace gigagpt::ops {

// From now on LibTorch's CPU tensors of 1 MiB and more come from here. Thread-safe; once per
// process.
void use_page_allocator();

// Pages that nobody uses go back to the system, longest unused first, before all together would
// take more than this. At first there is no limit.
void limit_pages(uint64_t limit_bytes);

}  // namespace gigagpt::ops
