#include "formats/json.h"

#include <set>
#include <vector>

namespace gigagpt::formats {

using nlohmann::json;
using nlohmann::ordered_json;

std::string shortened(std::string text) {
  constexpr size_t kMaxBytes = 100;
  if (text.size() <= kMaxBytes) return text;
  size_t end = kMaxBytes;
  while ((text[end] & 0xC0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 50;
  constexpr size_t kMaxOrderedKeys = 10000;  // each is looked for among all before it
  constexpr bool kOrdered = std::is_same_v<Json, ordered_json>;
  std::vector<std::set<std::string>> open_objects;  // their keys
  const auto check = [&](int depth, typename Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail("{}: nested more than {} deep", where, kMaxDepth);
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event != Json::parse_event_t::key) return true;
    const auto& key = value.template get_ref<const std::string&>();
    auto& keys = open_objects.back();
    if (!keys.insert(key).second) fail("{}: the key '{}' appears twice", where, shortened(key));
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

template <class Json>
Json parse_json_or_null(std::string_view text) {
  try {
    return parse_json<Json>(text, "");
  } catch (const Error&) {
    return nullptr;
  }
}

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

template <class Json>
std::string to_text(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

template json parse_json<json>(std::string_view, const std::string&);
template ordered_json parse_json<ordered_json>(std::string_view, const std::string&);
template json parse_json_or_null<json>(std::string_view);
template ordered_json parse_json_or_null<ordered_json>(std::string_view);
template int64_t whole_number<json>(const json&, const std::string&, int64_t, int64_t,
                                    const std::string&);
template int64_t whole_number<ordered_json>(const ordered_json&, const std::string&, int64_t,
                                            int64_t, const std::string&);
template std::string to_text<json>(const json&, int);
template std::string to_text<ordered_json>(const ordered_json&, int);

}  // namespace gigagpt::formats
