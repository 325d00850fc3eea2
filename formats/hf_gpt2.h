// The Hugging Face layout of a GPT-2: config.json of a GPT2LMHeadModel and the names, shapes and
// orientation of its tensors. GPT-2's "Conv1D" keeps weights as [in, out], ours are [out, in].
// https://huggingface.co/docs/transformers/model_doc/gpt2
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/stored_weights.h"

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
  bool bias = true;  // our flag `gigagpt_bias`: false means that the linear biases are zeros

  bool operator==(const HfGpt2Config&) const = default;
};

// What `activation` may be.
const std::vector<std::string>& hf_activations();

// Reads directory/config.json. Throws Error for a model that is not a GPT-2 this program computes
// (another type, activation, epsilon, or attention scaling), saying which key is in the way.
HfGpt2Config read_hf_config(const Path& directory);
// Writes it, and beside it the tokenizer (as Tokenizer::read has it) unless that is "", with the
// tokenizer_config.json that transformers wants.
void write_hf_config(const Path& directory, const HfGpt2Config& config,
                     const std::string& tokenizer = "");

// All tensors of the model in layer order, then those that only others write: lm_head, which is
// wte, and the causal masks. Others may leave out the prefix "transformer.".
std::vector<StoredTensor> hf_gpt2_tensors(const HfGpt2Config& config);

}  // namespace gigagpt::formats
