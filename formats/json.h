// Reading JSON that somebody else wrote.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace gigagpt::formats {

// The text's beginning, for a message of one line.
inline std::string shortened(std::string text) {
  constexpr size_t kMaxBytes = 100;
  if (text.size() <= kMaxBytes) return text;
  size_t end = kMaxBytes;
  while ((text[end] & 0xC0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

// The value of a JSON text, with whatever is wrong an Error that begins with `where`: also a key
// that comes twice, of which nlohmann-json by itself keeps the last, and nesting that its dump(),
// which recurses, would not survive.
template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 50;
  constexpr size_t kMaxOrderedKeys = 10000;  // each is looked for among all before it
  constexpr bool kOrdered = std::is_same_v<Json, nlohmann::ordered_json>;
  std::vector<std::set<std::string>> open_objects;  // their keys
  const auto check = [&](int depth, typename Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail("{}: nested more than {} deep", where, kMaxDepth);
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event != Json::parse_event_t::key) return true;
    const auto& key = value.template get_ref<const std::string&>();
    auto& keys = open_objects.back();
    if (!keys.insert(key).second) fail("{}: the key '{}' comes twice", where, shortened(key));
    if (kOrdered && keys.size() > kMaxOrderedKeys) {
      fail("{}: more than {} keys", where, kMaxOrderedKeys);
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const typename Json::exception& error) {
    fail("{}: {}", where, shortened(error.what()));
  }
}

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
  fail("{}: {} is {}, not a whole number from {} to {}", where, key, shortened(value.dump()), min,
       max);
}

// As text; bytes that are not UTF-8 (in a file name, say) are replaced instead of throwing.
template <class Json>
std::string to_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace gigagpt::formats
