#include "gpt/sample.h"

#include <algorithm>

#include "base/random.h"
#include "engine/run/checkpoint.h"
#include "gpt/documents.h"

namespace gigagpt {

Sampler::Sampler(const Path& checkpoint, formats::Tokenizer tokenizer, const GPTConfig& config,
                 const engine::Progress& progress)
    : gpt_(make_gpt(config, /*training=*/false)),
      tokenizer_(std::move(tokenizer)),
      separator_(separator_of(config, tokenizer_)),
      context_(size_t(config.max_position_embeddings)),
      memories_(gpt_.model.size(), ops::Memory(config.max_position_embeddings)) {
  engine::load_checkpoint(checkpoint, gpt_.store, /*optimizer=*/false, 0, progress);
}

void Sampler::generate(const std::string& prompt, const SampleOptions& options,
                       const OnToken& on_token) {
  std::vector<int32_t> tokens = tokenizer_.encode_with_special(prompt);
  if (tokens.empty())
    tokens = {tokenizer_.end_of_text().value_or(std::max(0, tokenizer_.token_of(U'\n')))};
  size_t start = tokens.size() > context_ ? tokens.size() - context_ : 0;  // of the context
  size_t computed = start;                                                 // of the tokens
  for (ops::Memory& memory : memories_) memory.clear();
  while (int64_t(tokens.size()) < options.max_length) {
    if (tokens.size() - start > context_) {  // full: go on with its last half
      computed = start = tokens.size() - std::max<size_t>(context_ / 2, 1);
      for (ops::Memory& memory : memories_) memory.clear();
    }
    const auto context = std::span<const int32_t>(tokens).subspan(start);
    const auto batch = continued_text(context, computed - start, separator_);
    const at::Tensor logits = gpt_.executor.infer(batch, memories_)[0][-1];  // V
    computed = tokens.size();
    const int64_t known = std::min(tokenizer_.vocab_size(), logits.numel());
    const std::span<float> row(logits.data_ptr<float>(), size_t(known));
    tokens.push_back(ops::sample(row, tokens, options.rule, mix(options.seed, tokens.size())));
    if (!on_token(tokens.back(), row)) break;
  }
}

}  // namespace gigagpt
