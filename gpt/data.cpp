#include "gpt/data.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "gpt/documents.h"

namespace gigagpt {

TokenData::TokenData(const GPTConfig& config, const std::string& split)
    : config_(config),
      file_(formats::open_split(config.dataset, split, config.vocab_size,
                                split == "train" ? config.sequence_length + 1 : 2)),
      separator_(separator_of(config)),
      key_(mix(uint64_t(config.seed), hash_name("data order"))),
      chunks_((file_.size() - 1) / config.sequence_length) {}

std::vector<engine::MicroBatch> TokenData::train_batch(int64_t step) const {
  std::vector<int64_t> chunks;
  const int64_t first = step * config_.batch_size;  // counts all sequences of the run
  for (int64_t i = first; i < first + config_.batch_size; ++i) {
    const Permutation order(uint64_t(chunks_), mix(key_, uint64_t(i / chunks_)));
    chunks.push_back(int64_t(order(uint64_t(i % chunks_))));
  }
  return gather(chunks);
}

std::vector<engine::MicroBatch> TokenData::eval_batch(int64_t first, int64_t count) const {
  std::vector<int64_t> chunks(size_t(std::max<int64_t>(std::min(count, chunks_ - first), 0)));
  std::iota(chunks.begin(), chunks.end(), first);
  auto batches = gather(chunks);
  const int64_t rest = file_.size() - 1 - chunks_ * config_.sequence_length;
  const bool reaches_rest = rest > 0 && first + count > chunks_;
  if (reaches_rest) batches.push_back(gather(std::vector<int64_t>{chunks_}, rest));
  return batches;
}

std::vector<engine::MicroBatch> TokenData::gather(std::span<const int64_t> chunks) const {
  std::vector<engine::MicroBatch> batches;
  const size_t size = size_t(config_.micro_batch());
  for (size_t i = 0; i < chunks.size(); i += size) {
    const auto part = chunks.subspan(i, std::min(size, chunks.size() - i));
    batches.push_back(gather(part, config_.sequence_length));
  }
  return batches;
}

engine::MicroBatch TokenData::gather(std::span<const int64_t> chunks, int64_t length) const {
  const at::Tensor tokens = at::empty({int64_t(chunks.size()), length + 1}, at::kLong);
  int64_t* row = tokens.data_ptr<int64_t>();
  for (const int64_t chunk : chunks) {
    file_.copy(chunk * config_.sequence_length, length + 1, config_.vocab_size, row);
    row += length + 1;
  }
  engine::MicroBatch batch{tokens.narrow(1, 0, length), tokens.narrow(1, 1, length)};  // B T each
  batch.counted = double(batch.target.numel());
  set_documents(batch, separator_);
  return batch;
}

}  // namespace gigagpt
