// Choosing the next token.
#pragma once

#include <cstdint>
#include <span>

namespace gigagpt::ops {

struct SamplingRule {
  double temperature = 0.8;  // 0: always the most likely token
  int64_t top_k = 200;       // 0: all
  int64_t no_repeat_ngram_size = 0;
};

// Draws a token from `logits` [V] (changed in place). Tokens that would complete an n-gram already
// in `history` are forbidden, unless that forbids all; then the top_k most likely remain. The draw
// is a function of (logits, history, rule, key).
int32_t sample(std::span<float> logits, std::span<const int32_t> history, const SamplingRule& rule,
               uint64_t key);

}  // namespace gigagpt::ops
