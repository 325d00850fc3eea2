#include "gpt/documents.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>

#include "base/error.h"
#include "formats/dataset.h"

namespace gigagpt {
namespace {

constexpr int64_t kGpt2Vocabulary =
    50257;  // of data without a tokenizer; <|endoftext|> is its last

}  // namespace

std::optional<int64_t> separator_of(const GPTConfig& config, const formats::Tokenizer& tokenizer) {
  if (!config.document_mask) return std::nullopt;
  const auto separator = tokenizer.end_of_text();
  if (!separator) {
    fail("document_mask: the tokenizer has no <|endoftext|>, so documents cannot be told apart");
  }
  return *separator;
}

std::optional<int64_t> separator_of(const GPTConfig& config) {
  if (!config.document_mask) return std::nullopt;
  const Path data = formats::find_dataset(config.dataset);
  if (std::filesystem::exists(data / "tokenizer.json"))
    return separator_of(config, formats::Tokenizer::load(data));
  if (formats::read_dataset_meta(data).vocab_size == kGpt2Vocabulary) return kGpt2Vocabulary - 1;
  fail("document_mask: {} has no tokenizer.json that says which token documents begin with",
       data.string());
}

void set_documents(engine::MicroBatch& batch, std::optional<int64_t> separator) {
  if (!separator) return;
  const at::Tensor tokens = batch.input.contiguous();  // B T
  batch.documents = at::empty_like(tokens);
  batch.positions = at::empty_like(tokens);
  const int64_t T = tokens.size(1);
  const int64_t* token = tokens.data_ptr<int64_t>();
  auto *document = batch.documents.data_ptr<int64_t>(),
       *position = batch.positions.data_ptr<int64_t>();
  int64_t begin = 0;
  for (int64_t i = 0; i < tokens.numel(); ++i) {
    const int64_t t = i % T;
    if (t == 0 || token[i] == *separator) begin = t;
    document[i] = begin;
    position[i] = t - begin;
  }
}

engine::MicroBatch continued_text(std::span<const int32_t> tokens, size_t computed,
                                  std::optional<int64_t> separator) {
  const std::vector<int64_t> text(tokens.begin(), tokens.end());
  engine::MicroBatch batch{at::tensor(text).unsqueeze(0)};  // 1 T
  batch.positions = at::arange(batch.input.size(1)).unsqueeze(0);
  set_documents(batch, separator);
  for (at::Tensor* part : {&batch.input, &batch.positions, &batch.documents}) {
    if (part->defined()) *part = part->slice(1, int64_t(computed)).contiguous();
  }
  return batch;
}

}  // namespace gigagpt
