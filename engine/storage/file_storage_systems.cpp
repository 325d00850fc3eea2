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
                     [this, index] { post(Event::kReduced, index); });
  }
}

void FileStorage::release_reduced(size_t layer) {
  const size_t first = layout().first_segment(layer);
  for (size_t i = 0; keeps_gradients() && i < layout().segment_count(layer); ++i) {
    post(Event::kReductionReleased, first + i);
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
  const Event event = layout().is_own(s) ? Event::kOwnWeightsSent : Event::kWeightsReceived;
  std::byte* working = weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin);
  exchange_.broadcast(index, working, [this, event, index] { post(event, index); });
}

void FileStorage::handle_events() {
  for (const auto& [event, index] : std::exchange(events_, {})) handle(event, index);
}

void FileStorage::handle(Event event, size_t index) {
  switch (event) {
    case Event::kGradientReleased:
      stores_.push_back({Job::kStoreGradient, index});
      return;
    case Event::kUpdateAsked:
      stores_.push_back({Job::kUpdateNow, index, 0, /*deliver=*/false});
      return;
    case Event::kAllMet:
      headers_due_ = false;
      return;
    default:
      break;
  }
  const size_t layer = segment(index).layer;
  switch (event) {
    case Event::kReduced:
      if (--unreduced_[layer] == 0) changed_.notify_all();
      if (!keeps_gradients()) --reducing_;
      if (gradients_[layer].held || !keeps_gradients()) break;
      [[fallthrough]];
    case Event::kReductionReleased:
      if (layout().is_own(segment(index)))
        ready_gradients_.push_back(index);
      else
        gradient_done(layer);
      break;
    case Event::kOwnWeightsSent:
      --broadcasting_;
      segment_left(weights_[layer]);
      break;
    default:  // kWeightsReceived
      --broadcasting_;
      if (--weights_[layer].missing == 0) changed_.notify_all();
      ready_weights_.push_back(index);
      break;
  }
}

void FileStorage::segment_left(LayerBuffer& buffer) {
  if (--buffer.leaving > 0 || !buffer.dropped) return;
  buffer.dropped = buffer.busy = false;
  take_memory(buffer);
}

// Starts to write what systems have added up, or sent.
void FileStorage::issue_ready() {
  while (!ready_gradients_.empty()) {
    const size_t index = ready_gradients_.front();
    if (state_writes_[segment(index).layer] > 0) break;
    if (!issue_part({Job::kStoreGradient, index})) break;
    ready_gradients_.pop_front();
  }
  while (!ready_weights_.empty() && issue_part({Job::kStoreWeights, ready_weights_.front()})) {
    ready_weights_.pop_front();
  }
}

}  // namespace gigagpt::engine
