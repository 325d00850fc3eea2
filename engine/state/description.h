// What a store file says of the model in it, so that a file can be looked at by itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/state/layout.h"

namespace gigagpt::engine {

constexpr uint64_t kMostDescriptionBytes = 16 << 20;

// The JSON of a model's description, as that version of the format has it.
std::string describe(const StateLayout& layout, uint32_t version);

// The layout that the JSON of a description means (docs/FILE_FORMAT.md), for a file of so many
// bytes. The text may be anything: throws Error beginning with `where` for what is no description,
// or one of a model that such a file cannot hold. Initial distributions are not in it.
StateLayout read_description(std::string_view text, uint32_t version, uint64_t file_bytes,
                             const std::string& where);

}  // namespace gigagpt::engine
