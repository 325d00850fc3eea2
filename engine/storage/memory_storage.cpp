#include "engine/storage/memory_storage.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/system.h"
#include "base/trace.h"

namespace gigagpt::engine {

struct MemoryStorage::LayerMemory {
  PageBuffer exp_avg, exp_avg_sq, master;  // the shard's; masters only beside working weights
  PageBuffer gradient, working;            // the whole layer's
  bool pending = false;                    // its update is still to be made
  std::vector<size_t> early = {};          // segments that are being reduced already
};

MemoryStorage::MemoryStorage(std::vector<LayerSpec> specs, const StateForm& form, Cluster& cluster)
    : Storage(StateLayout(std::move(specs), form, StateLayout::kSegmentElements,
                          form.training ? Shard{cluster.rank(), cluster.systems()} : Shard{}),
              cluster),
      memory_(layout().layer_count()),
      reducing_(layout().layer_count()),
      arriving_(layout().layer_count()),
      exchange_(cluster, layout()) {
  for (size_t i = 0; i < memory_.size(); ++i) {
    LayerMemory& memory = memory_[i];
    if (form.training) {
      const Segment shard = layout().shard_of(i);
      memory.exp_avg = PageBuffer(layout().kept_bytes(shard, Array::kExpAvg));
      memory.exp_avg_sq = PageBuffer(layout().kept_bytes(shard, Array::kExpAvgSq));
      const bool keeps_gradient = form.gradient != GradientForm::kNone;
      if (keeps_gradient) memory.gradient = PageBuffer(layout().gradient_bytes(i));
      if (form.has_masters()) memory.master = PageBuffer(4 * size_t(shard.count));
    }
    memory.working = PageBuffer(layout().working_bytes(i));
  }
}

MemoryStorage::~MemoryStorage() = default;

std::byte* MemoryStorage::working_at(size_t layer, int64_t element) const {
  return memory_[layer].working.data() + layout().working_at(layer, element);
}

// The shard's.
SegmentArrays MemoryStorage::arrays(size_t layer) const {
  const LayerMemory& memory = memory_[layer];
  const int64_t begin = layout().shard_of(layer).begin;
  std::byte* working = working_at(layer, begin);
  std::byte* gradient = memory.gradient.data();
  return {layout().form().has_masters() ? memory.master.data() : working,
          gradient == nullptr ? nullptr : gradient + 4 * begin, memory.exp_avg.data(),
          memory.exp_avg_sq.data(), working};
}

std::byte* MemoryStorage::acquire(const Request& request) {
  LayerMemory& memory = memory_[request.layer];
  if (!request.gradient) {
    if (std::exchange(memory.pending, false)) update(request.layer, update_);
    const MutexLock lock(mutex_);
    wait_for(arriving_[request.layer]);
    return memory.working.data();
  }
  const size_t bytes = layout().gradient_bytes(request.layer);
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

void MemoryStorage::update(size_t layer, const Update& update) {
  const Segment segment = layout().shard_of(layer);
  check_kept(layout(), update);
  for (const ops::WholeParam& param : whole_params(layout(), segment, arrays(layer), update))
    ops::make_direction(param, update.rule, update.lr, update.step);
  if (!layout().form().compact) {
    ops::update(param_states(layout(), segment, arrays(layer)), update.rule, update.lr,
                update.grad_scale, update.step);
    copy_vectors(layout(), segment, arrays(layer));
    return;
  }
  ops::update(compact_pieces(layout(), segment, arrays(layer)), update.rule, update.lr,
              update.grad_scale, update.step, segment.layer);
}

void MemoryStorage::update_layer(size_t layer, const Update& now) {
  update(layer, now);
  update_ = now;
  unused_.push_back(std::move(memory_[layer].gradient));
  gather_weights(layer);
}

// A shard is soon updated, and the sooner the others have it the better.
void MemoryStorage::defer(const Update& update) {
  update_ = update;
  for (size_t i = 0; i < memory_.size(); ++i) {
    GIGAGPT_ASSERT(!memory_[i].pending);
    if (cluster().is_alone()) {
      memory_[i].pending = true;
    } else {
      this->update(i, update);
      gather_weights(i);
    }
  }
}

void MemoryStorage::settle() {
  for (size_t i = 0; i < memory_.size(); ++i) {
    if (std::exchange(memory_[i].pending, false)) update(i, update_);
    const MutexLock lock(mutex_);
    wait_for(arriving_[i]);
  }
}

void MemoryStorage::reduce(size_t layer, bool) {
  const auto early = std::exchange(memory_[layer].early, {});
  for (const size_t segment : Exchange::order(layout(), layer)) {
    const bool done = std::find(early.begin(), early.end(), segment) != early.end();
    if (!done) reduce_segment(segment);
  }
}

void MemoryStorage::reduce_early(size_t layer, int64_t begin, int64_t end) {
  for (const size_t segment : Exchange::order(layout(), layer)) {
    const Segment& s = layout().segments()[segment];
    if (s.begin < begin || s.end() > end) continue;
    memory_[layer].early.push_back(segment);
    reduce_segment(segment);
  }
}

void MemoryStorage::reduce_segment(size_t segment) {
  const Segment& s = layout().segments()[segment];
  {
    const MutexLock lock(mutex_);
    ++reducing_[s.layer];
  }
  auto* gradient = reinterpret_cast<float*>(memory_[s.layer].gradient.data()) + s.begin;
  exchange_.reduce(segment, gradient, [this, layer = s.layer] {
    const MutexLock lock(mutex_);
    if (--reducing_[layer] == 0) changed_.notify_all();
  });
}

double MemoryStorage::reduced_square_sum(size_t layer) {
  const MutexLock lock(mutex_);
  wait_for(reducing_[layer]);
  return exchange_.square_sum_of_layer(layer);
}

void MemoryStorage::gather_weights(size_t layer) {
  {
    const MutexLock lock(mutex_);
    arriving_[layer] = layout().segment_count(layer);
  }
  for (const size_t segment : Exchange::order(layout(), layer)) {
    const int64_t begin = layout().segments()[segment].begin;
    exchange_.broadcast(segment, working_at(layer, begin), [this, layer] {
      const MutexLock lock(mutex_);
      if (--arriving_[layer] == 0) changed_.notify_all();
    });
  }
}

void MemoryStorage::wait_for(const size_t& missing) {
  if (missing == 0) return;
  const Zone zone("waiting for the network");
  const Stopwatch watch;
  while (missing > 0) changed_.wait(mutex_);
  stall_ms_ += watch.seconds() * 1e3;
}

void MemoryStorage::read(Array kept, size_t layer, int64_t first, std::span<float> values) {
  read_values(layout(), layout().shard_of(layer), arrays(layer), kept, first, values);
}

void MemoryStorage::write(Array kept, size_t layer, int64_t first, std::span<const float> values) {
  const Segment shard = layout().shard_of(layer);
  if (kept == Array::kMaster) write_working(layout(), layer, first, values, working_at(layer, 0));
  const Segment own = shard.overlap(first, int64_t(values.size()));
  if (own.count == 0) return;
  write_values(layout(), shard, arrays(layer), kept, own.begin,
               values.subspan(size_t(own.begin - first), size_t(own.count)));
}

IoCounts MemoryStorage::counts() const {
  return {.sent_bytes = cluster().sent_bytes(), .stall_ms = stall_ms_};
}

}  // namespace gigagpt::engine
