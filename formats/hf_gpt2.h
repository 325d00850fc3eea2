// The Hugging Face layout of a GPT-2: config.json of a GPT2LMHeadModel and the names, shapes and
// orientation of its tensors. GPT-2's "Conv1D" keeps weights as [in, out], ours are [out, in].
// https://huggingface.co/docs/transformers/model_doc/gpt2
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/safetensors.h"

namespace gigagpt::formats {

struct HfGpt2Config {
  int64_t n_layer = 0;
  int64_t n_head = 0;
  int64_t n_embd = 0;
  int64_t n_positions = 0;
  int64_t vocab_size = 0;
  double dropout = 0.0;
  double initializer_range = 0.02;
  bool bias = true;  // our flag `gigagpt_bias`: false means that the linear biases are zeros
};

// Reads directory/config.json. Throws Error for a model that is not a GPT-2 this program computes
// (another type, activation, epsilon, or attention scaling), saying which key is in the way.
HfGpt2Config read_hf_config(const Path& directory);
void write_hf_config(const Path& directory, const HfGpt2Config& config);

// All tensors of the model in layer order. lm_head is tied to wte and not stored.
std::vector<StoredTensor> hf_gpt2_tensors(const HfGpt2Config& config);

}  // namespace gigagpt::formats
