// What of a FileStorage is between systems: gradients that are added up, weights that come and go.
// The cluster's thread only leaves news for the storage's own.
#include "engine/storage/file_storage.h"

#include "base/error.h"

namespace gigagpt::engine {

void FileStorage::reduce(size_t layer, bool hold) {
  auto* gradient = reinterpret_cast<float*>(gradients_[layer].memory.data());
  {
    const std::lock_guard lock(mutex_);
    GIGAGPT_ASSERT(gradients_[layer].busy);
    gradients_[layer].missing = unreduced_[layer] = layout().segment_count(layer);
    gradients_[layer].reducing = keeps_gradients();
    gradients_[layer].held = hold;
    reducing_ += unreduced_[layer];
  }
  for (const size_t index : Exchange::order(layout(), layer)) {
    exchange_.reduce(index, gradient + segment(index).begin, [this, index] {
      tell({News::kReduced, index});
    });
  }
}

void FileStorage::release_reduced(size_t layer) {
  const size_t first = layout().first_segment(layer);
  for (size_t i = 0; keeps_gradients() && i < layout().segment_count(layer); ++i) {
    tell({News::kReleased, first + i});
  }
}

void FileStorage::tell(const News& news) {
  {
    const std::lock_guard lock(mutex_);
    news_.push_back(news);
  }
  file_->file().wake();
}

void FileStorage::receive_weights(size_t layer) {
  stale_[layer] = false;
  for (const size_t index : Exchange::order(layout(), layer)) {
    if (layout().is_own(segment(index))) continue;
    ++others_writes_[layer];  // until they are written
    share(index);
  }
}

// With the lock.
void FileStorage::share(size_t index) {
  const Segment& s = segment(index);
  ++sharing_;
  ++weights_[s.layer].leaving;
  const auto kind = layout().is_own(s) ? News::kSharedOwn : News::kSharedOthers;
  exchange_.share(index, weights_[s.layer].memory.data() + layout().working_at(s.layer, s.begin),
                  [this, kind, index] {
                    tell({kind, index});
                  });
}

// With the lock.
void FileStorage::take_news() {
  for (const News& news : std::exchange(news_, {})) take(news);
}

void FileStorage::take(const News& news) {
  const Segment& s = segment(news.segment);
  switch (news.kind) {
    case News::kReduced:
      if (--unreduced_[s.layer] == 0) changed_.notify_all();
      if (!keeps_gradients()) --reducing_;
      if (gradients_[s.layer].held || !keeps_gradients()) break;
      [[fallthrough]];
    case News::kReleased:
      if (layout().is_own(s))
        ready_gradients_.push_back(news.segment);
      else
        gradient_done(s.layer);
      break;
    case News::kSharedOwn:
      --sharing_;
      one_left(weights_[s.layer]);
      break;
    case News::kSharedOthers:
      --sharing_;
      if (--weights_[s.layer].missing == 0) changed_.notify_all();
      ready_weights_.push_back(news.segment);
      break;
    case News::kAllMet:
      headers_due_ = false;
      break;
  }
}

void FileStorage::one_left(Held& memory) {
  if (--memory.leaving > 0 || !memory.dropped) return;
  memory.dropped = memory.busy = false;
  take_memory(memory);
}

// What systems have added up, or sent, goes to the file.
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
