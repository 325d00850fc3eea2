// A model as other programs are given it: without multipliers, which are in its weights.
#pragma once

#include <string>
#include <vector>

#include "formats/hf_gpt2.h"
#include "formats/stored_weights.h"
#include "gpt/config.h"

namespace gigagpt {

// What becomes of its tensors.
std::vector<formats::FoldedTensor> folded_tensors(const GPTConfig& config);
// Writes config.json and the tokenizer; `dtype` is that of the weights, "float32" and the like.
// What is the same model for this program has our own keys as well.
void write_folded(GPTConfig config, const Path& directory, const std::string& tokenizer,
                  const std::string& dtype);
// What a GGUF file is made of. Throws Error for a family that is no GPT-2.
formats::HfGpt2Config gguf_form(const GPTConfig& config);

}  // namespace gigagpt
