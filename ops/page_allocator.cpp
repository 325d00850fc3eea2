#include "ops/page_allocator.h"

#include <c10/core/CPUAllocator.h>

#include <list>
#include <unordered_map>

#include "base/async_file.h"
#include "base/mutex.h"
#include "ops/tensor_allocator.h"

namespace gigagpt::ops {
namespace {

constexpr size_t kLarge = 1 << 20;

class PageAllocator : public TensorAllocator {
 public:
  // LibTorch asks for scratch memory without a DataPtr, too, and gives back either kind.
  c10::DeleterFnPtr raw_deleter() const override { return &give; }

  void limit(uint64_t bytes) {
    const MutexLock lock(mutex_);
    limit_bytes_ = bytes;
    make_room(0);
  }

  static PageAllocator& get() {
    static PageAllocator& allocator = *new PageAllocator;  // tensors may outlive main()
    return allocator;
  }

 private:
  c10::DataPtr take(size_t bytes) const override {
    if (bytes < kLarge) return small_->allocate(bytes);
    void* data = pages_for(bytes);
    return {data, data, &give, c10::Device(c10::DeviceType::CPU)};
  }

  void* pages_for(size_t bytes) const {
    const MutexLock lock(mutex_);
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      const size_t size = it->size_bytes();
      const bool fits = size >= bytes && size <= bytes + bytes / 8;
      if (fits && (best == kept_.end() || size < best->size_bytes())) best = it;
    }
    PageBuffer pages;
    if (best != kept_.end()) {
      pages = std::move(*best);
      kept_.erase(best);
      kept_bytes_ -= pages.size_bytes();
    } else {
      make_room(bytes);
      pages = PageBuffer(bytes);
    }
    used_bytes_ += pages.size_bytes();
    void* data = pages.data();
    used_.emplace(data, std::move(pages));
    return data;
  }

  static void give(void* data) {
    PageAllocator& self = get();
    const MutexLock lock(self.mutex_);
    const auto place = self.used_.find(data);
    if (place == self.used_.end()) return self.small_->raw_deallocate(data);
    self.used_bytes_ -= place->second.size_bytes();
    self.kept_bytes_ += place->second.size_bytes();
    self.kept_.push_back(std::move(place->second));
    self.used_.erase(place);
    self.make_room(0);
  }

  void make_room(size_t bytes) const REQUIRES(mutex_) {
    while (!kept_.empty() && used_bytes_ + kept_bytes_ + bytes > limit_bytes_) {
      kept_bytes_ -= kept_.front().size_bytes();
      kept_.pop_front();
    }
  }

  c10::Allocator* small_ = c10::GetDefaultCPUAllocator();
  mutable Mutex mutex_;
  mutable std::list<PageBuffer> kept_ GUARDED_BY(mutex_);  // longest unused first
  mutable std::unordered_map<void*, PageBuffer> used_ GUARDED_BY(mutex_);
  mutable uint64_t used_bytes_ GUARDED_BY(mutex_) = 0, kept_bytes_ GUARDED_BY(mutex_) = 0;
  uint64_t limit_bytes_ GUARDED_BY(mutex_) = ~uint64_t{0};
};

}  // namespace

void use_page_allocator() {
  c10::SetCPUAllocator(&PageAllocator::get(), /*priority=*/1);
}

void limit_pages(uint64_t limit_bytes) {
  PageAllocator::get().limit(limit_bytes);
}

}  // namespace gigagpt::ops
