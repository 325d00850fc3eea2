#include "engine/memory_storage.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace gigagpt::engine {

MemoryStorage::MemoryStorage(std::vector<LayerSpec> specs, Precision precision, bool training)
    : Storage(StateLayout(std::move(specs), precision, training, /*segment_elements=*/0)) {
  for (size_t i = 0; i < layout().layer_count(); ++i) {
    LayerMemory memory;
    const size_t bytes = 4 * size_t(layout().layer(i).size);
    for (PageBuffer* array :
         {&memory.master, &memory.gradient, &memory.exp_avg, &memory.exp_avg_sq}) {
      if (training) *array = PageBuffer(bytes);
    }
    const bool copies = precision == Precision::kBf16 || !training;
    if (copies) memory.working = PageBuffer(layout().working_bytes(i));
    memory_.push_back(std::move(memory));
  }
}

SegmentArrays MemoryStorage::arrays(size_t layer) const {
  const LayerMemory& memory = memory_[layer];
  const auto floats = [](const PageBuffer& buffer) {
    return reinterpret_cast<float*>(buffer.data());
  };
  const bool copies = memory.working.data() != nullptr;
  return {floats(memory.master), floats(memory.gradient), floats(memory.exp_avg),
          floats(memory.exp_avg_sq), copies ? memory.working.data() : memory.master.data()};
}

std::byte* MemoryStorage::acquire(const Need& need) {
  if (need.gradient) return memory_[need.layer].gradient.data();
  if (memory_[need.layer].pending) update(need.layer);
  return arrays(need.layer).working;
}

void MemoryStorage::update(size_t layer) {
  const Segment& segment = layout().segments()[layout().first_segment(layer)];
  ops::update(param_states(layout(), segment, arrays(layer)), update_.rule, update_.lr,
              update_.grad_scale, update_.step);
  copy_vectors(layout(), segment, arrays(layer));
  memory_[layer].pending = false;
}

void MemoryStorage::defer(const PendingUpdate& update) {
  update_ = update;
  for (LayerMemory& memory : memory_) {
    GIGAGPT_ASSERT(!memory.pending);
    memory.pending = true;
  }
}

void MemoryStorage::settle() {
  for (size_t i = 0; i < memory_.size(); ++i) {
    if (memory_[i].pending) update(i);
  }
}

void MemoryStorage::read(Kept kept, size_t layer, int64_t first, std::span<float> values) {
  if (layout().training()) {
    std::copy_n(array_of(kept, arrays(layer)) + first, values.size(), values.begin());
    return;
  }
  GIGAGPT_ASSERT(kept == Kept::kMaster);
  const std::byte* working = memory_[layer].working.data() + layout().working_at(layer, first);
  from_working(layout(), layer, first, working, values);
}

void MemoryStorage::write(Kept kept, size_t layer, int64_t first, std::span<const float> values) {
  const SegmentArrays to = arrays(layer);
  if (layout().training()) std::copy(values.begin(), values.end(), array_of(kept, to) + first);
  if (kept != Kept::kMaster) return;
  to_working(layout(), layer, first, values, to.working + layout().working_at(layer, first));
}

}  // namespace gigagpt::engine
