// The config.json of Hugging Face's GPT2LMHeadModel.
// https://huggingface.co/docs/transformers/model_doc/gpt2
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/model_config.h"

namespace gigagpt::formats {

struct HfGpt2Config {
  int64_t n_layer = 0;
  int64_t n_head = 0;
  int64_t n_embd = 0;
  int64_t n_positions = 0;
  int64_t vocab_size = 0;
  std::string activation = "gelu";  // or "gelu_new" and "gelu_pytorch_tanh", which are one
  double dropout = 0.0;
  double initializer_range = 0.02;
  bool tied = true;
  std::string dtype = "float32";  // of the weights
  bool plain = true;  // false: a model with multipliers, which other programs do not compute
  bool bias = true;   // our flag `gigagpt_bias`: false means that the linear biases are zeros

  bool operator==(const HfGpt2Config&) const = default;
};

// What `activation` may be.
const std::vector<std::string>& hf_activations();

// Reads directory/config.json. Throws Error for a model that is not a GPT-2 this program computes
// (another type, activation, epsilon, or attention scaling), saying which key is in the way.
HfGpt2Config read_hf_config(const Path& directory);
// Writes it as write_model_config does.
void write_hf_config(const Path& directory, const HfGpt2Config& config,
                     const std::string& tokenizer = "", const TextPairs& own = {});

}  // namespace gigagpt::formats
