// Documents that share a row of tokens (`document_mask`), each of which begins with <|endoftext|>.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "engine/model/layer.h"
#include "formats/tokenizer.h"
#include "gpt/config.h"

namespace gigagpt {

// The token that documents of the config's data set begin with, if they are to be kept apart.
// Throws Error if the data set has no such token.
std::optional<int64_t> separator_of(const GPTConfig& config);
std::optional<int64_t> separator_of(const GPTConfig& config, const formats::Tokenizer& tokenizer);

// With a separator, says where in its row the document of each token begins, and counts positions
// from there. A row begins in the middle of a document, at position 0.
void set_documents(engine::MicroBatch& batch, std::optional<int64_t> separator);

// The tokens of a text from `computed` on, which continue the ones before.
engine::MicroBatch continued_text(std::span<const int32_t> tokens, size_t computed,
                                  std::optional<int64_t> separator);

}  // namespace gigagpt
