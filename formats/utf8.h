// UTF-8, a code point at a time.
#pragma once

#include <string>
#include <string_view>

namespace gigagpt::formats {

// One code point of valid UTF-8 at `text`[position], which moves past it. Throws Error naming
// `what` and the byte where the encoding is bad.
char32_t next_code_point(std::string_view text, size_t& position, std::string_view what);

// Appends the UTF-8 encoding of a code point.
void append_utf8(std::string& text, char32_t code_point);

// How many bytes of the text, all but at most three, end with no character that is only begun.
size_t whole_characters(std::string_view text);

}  // namespace gigagpt::formats
