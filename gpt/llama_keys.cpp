#include "gpt/llama_keys.h"

#include "base/error.h"

namespace gigagpt {

std::vector<Option> LlamaKeys::options() {
  const Rule count = between(1, 1 << 18);
  std::vector<Option> options = rope.options();
  options.insert(
      options.begin(),
      {{"kv_heads", &kv_heads, "heads of keys and values (G); null: as many as heads", count},
       {"head_size", &head_size, "of one head (D); null: width / heads", count},
       {"ffn_width", &ffn_width, "hidden width (F); null: 8/3 of width, up to a multiple of 64",
        between(1, 1 << 20)},
       {"tie_word_embeddings", &tie_word_embeddings, "the head has the embedding's matrix"},
       {"qkv_bias", &qkv_bias, "biases on queries, keys and values (Qwen2)"},
       {"qk_norm", &qk_norm, "norms of queries and keys, head by head (Qwen3)"},
       {"norm_epsilon", &norm_epsilon, "added to mean squares in norms", above(0)}});
  return options;
}

void LlamaKeys::check(int64_t heads, int64_t size) const {
  if (kv_heads && heads % *kv_heads != 0)
    fail("kv_heads: {} does not divide heads {}", *kv_heads, heads);
  if (head_size.value_or(size) % 2 != 0)
    fail("head_size: {} is odd, but positions turn pairs", head_size.value_or(size));
  if (rope.low_frequency_factor >= rope.high_frequency_factor)
    fail("rope_low_frequency_factor: {} is not below rope_high_frequency_factor {}",
         rope.low_frequency_factor, rope.high_frequency_factor);
}

}  // namespace gigagpt
