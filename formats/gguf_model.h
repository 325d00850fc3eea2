// How llama.cpp's architecture "gpt2" wants a GPT-2: its metadata, tokenizer, tensor names, shapes
// and types. https://github.com/ggml-org/llama.cpp, gguf-py/gguf/constants.py
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/hf_gpt2.h"
#include "formats/stored_weights.h"
#include "formats/tokenizer.h"

namespace gigagpt::formats {

// A tensor of the file, and where its values come from.
struct GgufSource {
  GgufTensor tensor;
  FoldedTensor values;  // `from.transposed`: the file wants it the other way round
};

// All tensors in the file's order. Matrices have `type`, except that the
// position embedding and all vectors are F32, as llama.cpp's converter leaves them, and that rows
// which are no whole blocks of Q8_0 are F16. Unless the output matrix is a tensor of its own, it is
// the token embedding's, which llama.cpp takes if none is there.
std::vector<GgufSource> gguf_gpt2_tensors(std::span<const FoldedTensor> tensors, GgufType type);

// A model as a file has it, but for its tokenizer.
struct GgufModel {
  std::vector<GgufSource> sources;
  GgufEntries entries;
  int64_t vocab_size = 0;
  std::string note = {};  // for the user: what llama.cpp computes otherwise
};

// A GPT-2 with these tensors, under that name. `type` is what most of its weights become.
GgufModel gguf_model(const HfGpt2Config& config, std::span<const FoldedTensor> tensors,
                     GgufType type, const std::string& name);

// The tokenizer, such that llama.cpp cuts any text into the same tokens. Ids from the tokenizer's
// size to `vocab_size` become unused ones. Throws Error if vocab_size is below the tokenizer's, or
// llama.cpp has no such tokenizer.
GgufEntries gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size);

// The token that ends a text for llama.cpp, which needs one at byte level: <|endoftext|>; without
// that an unused id, or, if there is none either, the tokenizer's last.
int64_t gguf_end_of_text(const Tokenizer& tokenizer, int64_t vocab_size);

// For a model without a tokenizer: it can be used with token ids alone.
GgufEntries gguf_no_tokenizer();

}  // namespace gigagpt::formats
