#include "engine/memory_storage.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace gigagpt::engine {

MemoryStorage::MemoryStorage(std::vector<LayerSpec> specs, const StateForm& form)
    : Storage(StateLayout(std::move(specs), form, /*segment_elements=*/0)) {
  for (size_t i = 0; i < layout().layer_count(); ++i) {
    LayerMemory memory;
    if (form.training) {
      memory.exp_avg = PageBuffer(layout().moment_bytes(whole(i)));
      memory.exp_avg_sq = PageBuffer(layout().moment_bytes(whole(i)));
      const bool keeps_gradient = form.gradient != GradientForm::kNone;
      if (keeps_gradient) memory.gradient = PageBuffer(layout().gradient_bytes(i));
      if (form.has_masters()) memory.master = PageBuffer(4 * size_t(layout().layer(i).size));
    }
    memory.working = PageBuffer(layout().working_bytes(i));
    memory_.push_back(std::move(memory));
  }
}

SegmentArrays MemoryStorage::arrays(size_t layer) const {
  const LayerMemory& memory = memory_[layer];
  const bool masters = layout().form().has_masters();
  return {(masters ? memory.master : memory.working).data(), memory.gradient.data(),
          memory.exp_avg.data(), memory.exp_avg_sq.data(), memory.working.data()};
}

std::byte* MemoryStorage::acquire(const Need& need) {
  LayerMemory& memory = memory_[need.layer];
  if (!need.gradient) {
    if (std::exchange(memory.pending, false)) update(need.layer, update_);
    return memory.working.data();
  }
  const size_t bytes = layout().gradient_bytes(need.layer);
  if (memory.gradient.data() == nullptr) {
    const auto fits = [&](const PageBuffer& unused) { return unused.size_bytes() >= bytes; };
    const auto found = std::find_if(unused_.begin(), unused_.end(), fits);
    if (found == unused_.end()) {
      memory.gradient = PageBuffer(bytes);
    } else {
      memory.gradient = std::move(*found);
      unused_.erase(found);
    }
  }
  return memory.gradient.data();
}

void MemoryStorage::update(size_t layer, const PendingUpdate& update) {
  const Segment& segment = whole(layer);
  if (!layout().form().compact) {
    ops::update(param_states(layout(), segment, arrays(layer)), update.rule, update.lr,
                update.grad_scale, update.step);
    copy_vectors(layout(), segment, arrays(layer));
    return;
  }
  ops::update(compact_pieces(layout(), segment, arrays(layer)), update.rule, update.lr,
              update.grad_scale, update.step, segment.layer);
}

void MemoryStorage::update_layer(size_t layer, const PendingUpdate& now) {
  update(layer, now);
  update_ = now;
  unused_.push_back(std::move(memory_[layer].gradient));
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
    if (std::exchange(memory_[i].pending, false)) update(i, update_);
  }
}

void MemoryStorage::read(Kept kept, size_t layer, int64_t first, std::span<float> values) {
  read_values(layout(), whole(layer), arrays(layer), kept, first, values);
}

void MemoryStorage::write(Kept kept, size_t layer, int64_t first, std::span<const float> values) {
  write_values(layout(), whole(layer), arrays(layer), kept, first, values);
}

}  // namespace gigagpt::engine
