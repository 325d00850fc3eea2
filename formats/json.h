// Reading JSON that somebody else wrote. Parsing and printing are compiled once, in json.cpp: a
// file that calls nlohmann's own parse() or dump() takes seconds more to compile.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"

namespace gigagpt::formats {

// Truncates the text for a message of one line.
std::string shortened(std::string text);

// These are defined for nlohmann's json and ordered_json.

// The value of a JSON text, with whatever is wrong an Error that begins with `where`: also a key
// that appears twice, of which nlohmann-json by itself keeps the last, and nesting that its dump(),
// which recurses, would not survive.
template <class Json>
Json parse_json(std::string_view text, const std::string& where);

// The value of a JSON text, or null for what is not one: a line that a crash cut short, say.
template <class Json>
Json parse_json_or_null(std::string_view text);

// object[key] as a whole number in [min, max]. Throws Error naming `where` and the key otherwise:
// nlohmann-json by itself would cut 12.5 to 12 and wrap what does not fit.
template <class Json>
int64_t whole_number(const Json& object, const std::string& key, int64_t min, int64_t max,
                     const std::string& where);

// As text; bytes that are not UTF-8 (in a file name, say) are replaced instead of throwing.
template <class Json>
std::string to_text(const Json& json, int indent = -1);

}  // namespace gigagpt::formats
