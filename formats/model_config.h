// The config.json beside a model's weights, for other programs and with our own keys.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/file.h"
#include "formats/run_files.h"

namespace gigagpt::formats {

// Writes config.json with our own keys in "gigagpt", and beside it the tokenizer (as
// Tokenizer::read has it) unless that is "", with the tokenizer_config.json that transformers
// wants.
void write_model_config(const Path& directory, nlohmann::ordered_json root, const TextPairs& own,
                        int64_t max_length, const std::string& tokenizer);

// Our own keys in config.json; empty if there are none, as another program wrote it. Throws Error.
TextPairs read_own_keys(const Path& directory);

}  // namespace gigagpt::formats
