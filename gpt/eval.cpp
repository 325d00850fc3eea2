#include "gpt/eval.h"

#include <algorithm>

namespace gigagpt {

std::optional<EvalResult> evaluate(engine::Executor& executor, const TokenData& data,
                                   const GPTConfig& config, const engine::Progress& progress) {
  int64_t sequences = data.eval_sequences();
  if (config.eval_batches > 0)
    sequences = std::min(sequences, config.eval_batches * config.batch_size);
  if (!progress(0)) return std::nullopt;
  EvalResult result;
  for (int64_t first = 0; first < sequences; first += config.batch_size) {
    const int64_t count = std::min(config.batch_size, sequences - first);
    const auto batches = data.eval_batch(first, count);
    const auto losses = executor.evaluate(batches, [&](double share) {
      return progress((double(first) + share * double(count)) / double(sequences));
    });
    if (losses.empty()) return std::nullopt;
    for (size_t m = 0; m < batches.size(); ++m) {
      result.loss += losses[m] * batches[m].weight();
      result.tokens += int64_t(batches[m].weight());
    }
  }
  result.loss /= double(result.tokens);
  return result;
}

}  // namespace gigagpt
