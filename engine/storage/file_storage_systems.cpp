// The part of a FileStorage that lies between systems: gradients that are added up, weights that
// come and go. The cluster's thread only posts events for the storage's own.
#include "base/error.h"
#include "engine/storage/file_storage.h"

namespace gigagpt::engine {

void FileStorage::reduce(size_t layer, bool hold) {
  {
    const MutexLock lock(mutex_);
    counts_.stall_ms += lock.waited_ms();
    LayerBuffer& buffer = gradients_[layer];
    GIGAGPT_ASSERT(buffer.busy);
    buffer.missing = unreduced_[layer] = layout().segment_count(layer);
    buffer.reducing = keeps_gradients();
    buffer.held = hold;
    reducing_ += unreduced_[layer];
  }
  for (const size_t index : Exchange::order(layout(), layer)) {
    exchange_.reduce(index, reinterpret_cast<float*>(gradient_at(index)),
                     [this, index] { post(&FileStorage::reduced, index); });
  }
}

void FileStorage::release_reduced(size_t layer) {
  const size_t first = layout().first_segment(layer);
  for (size_t i = 0; keeps_gradients() && i < layout().segment_count(layer); ++i) {
    post(&FileStorage::reduction_released, first + i);
  }
}

void FileStorage::receive_weights(size_t layer) {
  stale_[layer] = false;
  for (const size_t index : Exchange::order(layout(), layer)) {
    if (layout().is_own(segment(index))) continue;
    ++others_writes_[layer];  // until they are written
    broadcast_weights(index);
  }
}

void FileStorage::broadcast_weights(size_t index) {
  const Segment& s = segment(index);
  ++broadcasting_;
  ++weights_[s.layer].leaving;
  const Event event =
      layout().is_own(s) ? &FileStorage::own_weights_sent : &FileStorage::weights_received;
  std::byte* working = weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin);
  exchange_.broadcast(index, working, [this, event, index] { post(event, index); });
}

void FileStorage::all_met(size_t) {
  headers_due_ = false;
}

void FileStorage::reduced(size_t index) {
  const size_t layer = segment(index).layer;
  if (--unreduced_[layer] == 0) changed_.notify_all();
  if (!keeps_gradients())
    --reducing_;
  else if (!gradients_[layer].held)
    reduction_released(index);
}

void FileStorage::reduction_released(size_t index) {
  if (layout().is_own(segment(index)))
    ready_gradients_.push_back(index);
  else
    gradient_done(segment(index).layer);
}

void FileStorage::own_weights_sent(size_t index) {
  --broadcasting_;
  segment_left(weights_[segment(index).layer]);
}

void FileStorage::weights_received(size_t index) {
  --broadcasting_;
  if (--weights_[segment(index).layer].missing == 0) changed_.notify_all();
  ready_weights_.push_back(index);
}

void FileStorage::segment_left(LayerBuffer& buffer) {
  if (--buffer.leaving > 0 || !buffer.dropped) return;
  buffer.dropped = buffer.busy = false;
  take_memory(buffer);
}

}  // namespace gigagpt::engine
