// Batches: which tokens a step sees.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model/layer.h"
#include "formats/dataset.h"
#include "gpt/config.h"

namespace gigagpt {

// One split of a data set, cut into non-overlapping chunks of sequence_length tokens; a chunk's
// labels are its tokens moved on by one.
class TokenData {
 public:
  // `split` is "train" or "val". Throws Error if the file is missing or shorter than needed.
  TokenData(const GPTConfig& config, const std::string& split);

  // The global batch of a step (from 0) in micro-batches: a pure function of (seed, step). Chunks
  // are drawn without replacement, in a new order each time all have been seen.
  std::vector<engine::MicroBatch> train_batch(int64_t step) const;

  double epochs(int64_t batches) const {
    return double(batches * config_.batch_size) / double(chunks_);
  }

  // Sequences [first, first + count) in file order for evaluation; the last one may be shorter.
  std::vector<engine::MicroBatch> eval_batch(int64_t first, int64_t count) const;
  int64_t eval_sequences() const {
    return (file_.size() + config_.sequence_length - 2) / config_.sequence_length;
  }

 private:
  std::vector<engine::MicroBatch> gather(std::span<const int64_t> chunks) const;
  engine::MicroBatch gather(std::span<const int64_t> chunks, int64_t length) const;

  GPTConfig config_;
  formats::TokenFile file_;
  std::optional<int64_t> separator_;  // of documents that are kept apart
  uint64_t key_;
  int64_t chunks_;  // whole ones
};

}  // namespace gigagpt
