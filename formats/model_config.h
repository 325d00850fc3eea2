// The config.json beside a model's weights, for other programs and with our own keys.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/file.h"
#include "formats/run_files.h"

namespace gigagpt::formats {

// The model_type of models that other programs do not compute, so that they say so instead of
// taking the weights for those of another model; these have no `architectures` either.
inline constexpr const char* kOwnModelType = "gigagpt";
nlohmann::ordered_json architectures(const std::string& name, bool plain);

// Writes config.json with our own keys in "gigagpt", and beside it the tokenizer (as
// Tokenizer::read has it) unless that is "", with the tokenizer_config.json that transformers
// wants.
void write_model_config(const Path& directory, nlohmann::ordered_json root, const TextPairs& own,
                        int64_t max_length, const std::string& tokenizer);

// Our own keys in config.json; empty if there are none, as another program wrote it. Throws Error.
TextPairs read_own_keys(const Path& directory);

}  // namespace gigagpt::formats
