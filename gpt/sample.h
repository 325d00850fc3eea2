// Text from a trained model.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "gpt/model.h"
#include "ops/sampling.h"

namespace gigagpt {

struct SampleOptions {
  ops::SamplingRule rule;
  int64_t max_length = 500;  // tokens, those of the prompt included
  uint64_t seed = 0;
};

class Sampler {
 public:
  // From any checkpoint directory; `config` is GPTConfig::of_checkpoint's.
  Sampler(const Path& checkpoint, formats::Tokenizer tokenizer, const GPTConfig& config,
          const engine::Progress& progress);

  // Told each new token and the logits that it was drawn from; false ends the text.
  using OnToken = std::function<bool(int32_t token, std::span<const float> logits)>;

  // Continues `prompt`. An empty one starts where a text does, or from a new line. Throws Error for
  // characters the model does not know.
  void generate(const std::string& prompt, const SampleOptions& options, const OnToken& on_token);

  const formats::Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  engine::Runtime gpt_;
  formats::Tokenizer tokenizer_;
  std::optional<int64_t> separator_;   // of documents that are kept apart
  size_t context_;                     // longest
  std::vector<ops::Memory> memories_;  // one per layer
};

}  // namespace gigagpt
