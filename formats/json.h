// Reading JSON that somebody else wrote.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace gigagpt::formats {

// object[key] as a whole number in [min, max]. Throws Error naming `where` and the key otherwise:
// nlohmann-json by itself would cut 12.5 to 12 and wrap what does not fit.
template <class Json>
int64_t whole_number(const Json& object, const std::string& key, int64_t min, int64_t max,
                     const std::string& where) {
  const auto& value = object.at(key);
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.template get<uint64_t>() <= INT64_MAX);
  if (fits) {
    const auto number = value.template get<int64_t>();
    if (number >= min && number <= max) return number;
  }
  fail("{}: {} is {}, not a whole number from {} to {}", where, key, value.dump(), min, max);
}

// As text; bytes that are not UTF-8 (in a file name, say) are replaced instead of throwing.
template <class Json>
std::string to_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace gigagpt::formats
