// Evaluation: the mean loss over a data set.
#pragma once

#include <optional>

#include "engine/run/executor.h"
#include "gpt/data.h"

namespace gigagpt {

struct EvalResult {
  double loss = 0;  // mean over tokens, in nats; perplexity is its exponential
  int64_t tokens = 0;
};

// Over the first config.eval_batches batches of `data` (0: all of it, the incomplete last chunk
// included). `progress` is told the done share; false ends it without a result.
std::optional<EvalResult> evaluate(engine::Executor& executor, const TokenData& data,
                                   const GPTConfig& config, const engine::Progress& progress);

}  // namespace gigagpt
