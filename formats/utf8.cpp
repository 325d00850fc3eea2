#include "formats/utf8.h"

#include <unicode/utf8.h>

#include "base/error.h"

namespace gigagpt::formats {

char32_t next_code_point(std::string_view text, size_t& position, std::string_view what) {
  if (position >= text.size()) fail("{}: empty where a character should be", what);
  size_t end = position;
  UChar32 code_point = 0;
  U8_NEXT(text.data(), end, text.size(), code_point);
  if (code_point < 0) {
    fail("{}: byte {} is not valid UTF-8; convert the text first, e.g. with iconv -t UTF-8", what,
         position);
  }
  position = end;
  return static_cast<char32_t>(code_point);
}

void append_utf8(std::string& text, char32_t code_point) {
  char bytes[U8_MAX_LENGTH];
  size_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, code_point);
  text.append(bytes, size);
}

size_t whole_characters(std::string_view text) {
  auto size = static_cast<ptrdiff_t>(text.size());
  U8_TRUNCATE_IF_INCOMPLETE(text.data(), 0, size);
  return static_cast<size_t>(size);
}

}  // namespace gigagpt::formats
