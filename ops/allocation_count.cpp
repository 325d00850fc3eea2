#include "ops/allocation_count.h"

#include <c10/core/CPUAllocator.h>

#include <unordered_map>

#include "base/mutex.h"
#include "ops/tensor_allocator.h"

namespace gigagpt::ops {
namespace {

constexpr uint8_t kPriority = 2;  // above use_page_allocator()'s

// In front of another allocator. LibTorch takes its memory for its own address, so what belongs to
// it is found by that.
class Counter : public TensorAllocator {
 public:
  c10::DeleterFnPtr raw_deleter() const override { return &give; }

  static Counter& get() {
    static Counter& counter = *new Counter;  // tensors may outlive main()
    return counter;
  }

  void begin() {
    const MutexLock lock(mutex_);
    ++round_;
    alive_bytes_ = 0;
    inner_ = c10::GetAllocator(c10::DeviceType::CPU);
    c10::SetCPUAllocator(this, kPriority);
  }
  void end() {
    const MutexLock lock(mutex_);
    c10::SetCPUAllocator(inner_, kPriority);
  }
  int64_t alive_bytes() const {
    const MutexLock lock(mutex_);
    return alive_bytes_;
  }

 private:
  struct Block {
    c10::DataPtr memory;
    int64_t bytes;
    int round;  // blocks of an earlier one do not count
  };

  c10::DataPtr take(size_t bytes) const override {
    const MutexLock lock(mutex_);
    c10::DataPtr memory = inner_->allocate(bytes);
    void* data = memory.get();
    if (data == nullptr) return memory;
    alive_bytes_ += int64_t(bytes);
    blocks_.emplace(data, Block{std::move(memory), int64_t(bytes), round_});
    return {data, data, &give, c10::Device(c10::DeviceType::CPU)};
  }

  static void give(void* data) {
    Counter& self = get();
    const MutexLock lock(self.mutex_);
    const auto found = self.blocks_.find(data);
    if (found->second.round == self.round_) self.alive_bytes_ -= found->second.bytes;
    self.blocks_.erase(found);
  }

  mutable Mutex mutex_;
  c10::Allocator* inner_ GUARDED_BY(mutex_) = nullptr;
  mutable std::unordered_map<void*, Block> blocks_ GUARDED_BY(mutex_);
  mutable int64_t alive_bytes_ GUARDED_BY(mutex_) = 0;
  int round_ GUARDED_BY(mutex_) = 0;
};

}  // namespace

AllocationCount::AllocationCount() {
  Counter::get().begin();
}

AllocationCount::~AllocationCount() {
  Counter::get().end();
}

int64_t AllocationCount::alive_bytes() const {
  return Counter::get().alive_bytes();
}

}  // namespace gigagpt::ops
