#include "formats/utf8.h"

#include <algorithm>

#include "base/error.h"

namespace gigagpt::formats {
namespace {

// How long the sequence starting with `lead` is, and the smallest code point that needs it.
struct Utf8Form {
  size_t size_bytes;
  char32_t smallest;
};

Utf8Form utf8_form(unsigned char lead) {
  if (lead < 0x80) return {1, 0};
  if (lead >= 0xC2 && lead < 0xE0) return {2, 0x80};
  if (lead >= 0xE0 && lead < 0xF0) return {3, 0x800};
  if (lead >= 0xF0 && lead < 0xF5) return {4, 0x10000};
  return {0, 0};
}

}  // namespace

char32_t next_code_point(std::string_view text, size_t& position, std::string_view what) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (position >= text.size()) fail("{}: empty where a character should be", what);
  const Utf8Form form = utf8_form(byte(position));
  bool good = form.size_bytes > 0 && position + form.size_bytes <= text.size();
  char32_t code_point =
      form.size_bytes == 1 ? byte(position) : byte(position) & (0x7F >> form.size_bytes);
  for (size_t i = 1; good && i < form.size_bytes; ++i) {
    good = (byte(position + i) & 0xC0) == 0x80;
    code_point = code_point << 6 | (byte(position + i) & 0x3F);
  }
  const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
  if (!good || code_point < form.smallest || code_point > 0x10FFFF || surrogate) {
    fail("{}: byte {} is not valid UTF-8; convert the text first, e.g. with iconv -t UTF-8", what,
         position);
  }
  position += form.size_bytes;
  return code_point;
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t bits) { text.push_back(static_cast<char>(bits)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t whole_characters(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    return utf8_form(byte).size_bytes > back ? text.size() - back : text.size();
  }
  return text.size();
}

}  // namespace gigagpt::formats
