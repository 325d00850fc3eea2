// The config keys that only `model: llama` has.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/option.h"
#include "ops/rope_rule.h"

namespace gigagpt {

struct LlamaKeys {
  std::optional<int64_t> kv_heads = {};
  std::optional<int64_t> head_size = {};
  std::optional<int64_t> ffn_width = {};
  ops::RopeRule rope = {};  // more keys
  bool tie_word_embeddings = true;
  bool qkv_bias = false;
  bool qk_norm = false;
  double norm_epsilon = 1e-5;

  std::vector<Option> options();  // they point into this object
  // Throws Error for values that do not go together, with so many heads of queries of width /
  // heads.
  void check(int64_t heads, int64_t size) const;
};

}  // namespace gigagpt
