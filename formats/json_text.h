// A text out of a JSON object.
#pragma once

#include <string>
#include <string_view>

namespace gigagpt::formats {

// The string at `field` of the object that is all of `json`; the rest is checked but not kept, so
// that memory is bounded by the size of `json` whatever it holds. Throws Error naming `where` for
// what is no JSON or no object, and for a field that is missing, given twice or not a string.
std::string json_text(std::string_view json, const std::string& field, const std::string& where);

}  // namespace gigagpt::formats
