// The config.json of Hugging Face's LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM.
// https://huggingface.co/docs/transformers/model_doc/llama
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/file.h"
#include "formats/model_config.h"

namespace gigagpt::formats {

struct HfLlamaConfig {
  struct Scaling {  // of positions, as Llama 3 has it
    double factor = 1, low_frequency_factor = 1, high_frequency_factor = 4;
    int64_t original_positions = 8192;
  };
  int64_t layers = 0, width = 0, heads = 0, kv_heads = 0, head_size = 0, ffn_width = 0;
  int64_t positions = 0, vocab_size = 0;
  double rope_theta = 10000, norm_epsilon = 1e-5, initializer_range = 0.02;
  std::optional<Scaling> scaling = {};
  bool tied = true;
  std::string dtype = "float32";  // of the weights
  bool plain = true;      // false: a model with multipliers, which other programs do not compute
  bool qkv_bias = false;  // Qwen2's
  bool qk_norm = false;   // Qwen3's
};

// Writes it as write_model_config does.
void write_hf_config(const Path& directory, const HfLlamaConfig& config,
                     const std::string& tokenizer = "", const TextPairs& own = {});

}  // namespace gigagpt::formats
