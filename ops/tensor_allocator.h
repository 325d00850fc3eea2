// An allocator of CPU tensors, for every version of LibTorch.
#pragma once

#include <c10/core/Allocator.h>
#include <torch/version.h>

#include <cstddef>

namespace gigagpt::ops {

class TensorAllocator : public c10::Allocator {
 public:
#if TORCH_VERSION_MAJOR < 2
  c10::DataPtr allocate(size_t bytes) const override {
    return take(bytes);
  }
#else
  c10::DataPtr allocate(size_t bytes) override {
    return take(bytes);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
#endif

 protected:
  virtual c10::DataPtr take(size_t bytes) const = 0;
};

}  // namespace gigagpt::ops
