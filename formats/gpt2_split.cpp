#include "formats/gpt2_split.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <cstdint>
#include <vector>

namespace gigagpt::formats {
namespace {

enum Kind : uint8_t { kSymbol, kLetter, kNumber, kSpace };

constexpr size_t kCodePoints = 0x110000;

UBool note_range(const void* context, UChar32 first, UChar32 limit, UCharCategory category) {
  auto& kinds = *static_cast<std::vector<uint8_t>*>(const_cast<void*>(context));
  const uint32_t mask = U_MASK(category);
  const uint8_t kind = mask & U_GC_L_MASK ? kLetter : mask & U_GC_N_MASK ? kNumber : kSymbol;
  for (UChar32 c = first; c < limit; ++c) {
    const bool may_be_space = (mask & (U_GC_Z_MASK | U_GC_CC_MASK)) != 0;
    kinds[static_cast<size_t>(c)] = may_be_space && u_isUWhiteSpace(c) ? uint8_t{kSpace} : kind;
  }
  return true;
}

// A byte for each code point: text touches few of its pages.
const uint8_t* kinds() {
  static const std::vector<uint8_t> table = [] {
    std::vector<uint8_t> kinds(kCodePoints);
    u_enumCharTypes(note_range, &kinds);
    return kinds;
  }();
  return table.data();
}

struct Character {
  uint8_t kind;
  uint8_t size_bytes;
};

// Of the character at `at`, before `end`; a byte that begins none is a symbol.
inline Character character_at(const uint8_t* at, const uint8_t* end, const uint8_t* kinds) {
  if (U8_IS_SINGLE(*at)) return {kinds[*at], 1};
  ptrdiff_t size = 0;
  UChar32 code_point = 0;
  U8_NEXT(at, size, end - at, code_point);
  if (code_point < 0) return {kSymbol, 1};
  return {kinds[code_point], static_cast<uint8_t>(size)};
}

// The size of 's, 't, 're, 've, 'm, 'll or 'd after an apostrophe; 0 if it is none of them.
inline size_t contraction_size(const uint8_t* at, const uint8_t* end) {
  const ptrdiff_t left = end - at;
  if (left < 2) return 0;
  switch (at[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return left > 2 && at[2] == 'e' ? 3 : 0;
    case 'l':
      return left > 2 && at[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

}  // namespace

size_t pre_token_end(std::string_view text, size_t begin) {
  const uint8_t* const kinds = formats::kinds();
  const auto* const start = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const end = start + text.size();
  const uint8_t* at = start + begin;
  if (*at == '\'') {
    if (const size_t size = contraction_size(at, end)) return begin + size;
  }
  Character character = character_at(at, end, kinds);
  if (*at == ' ' && at + 1 < end) {
    const Character next = character_at(at + 1, end, kinds);
    if (next.kind != kSpace) {
      ++at;
      character = next;
    }
  }
  const uint8_t kind = character.kind;
  const uint8_t* last = at;  // where the last character of the run begins
  do {
    last = at;
    at += character.size_bytes;
    if (at == end) return text.size();
    character = character_at(at, end, kinds);
  } while (character.kind == kind);
  // A run of spaces leaves its last one to what follows, unless there is only one.
  if (kind == kSpace && last > start + begin) at = last;
  return static_cast<size_t>(at - start);
}

// Between characters of different kinds, of which the first is no space, a pre-token always ends
// and nothing before looks further ahead: only an apostrophe may go with the letters after it, and
// only spaces look at what follows them.
size_t safe_pre_token_cut(std::string_view text, size_t from, bool before_space) {
  const uint8_t* const kinds = formats::kinds();
  const auto* const start = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const end = start + text.size();
  if (from >= text.size()) return text.size();
  // From the beginning of a character before `from`; bytes that continue one begin none.
  const uint8_t* at = start + (from > 0 ? from - 1 : 0);
  while (at > start && (*at & 0xC0) == 0x80) --at;
  Character character = character_at(at, end, kinds);
  while (at + character.size_bytes < end) {
    const uint8_t* const next = at + character.size_bytes;
    const Character following = character_at(next, end, kinds);
    const bool cut = character.kind != kSpace && following.kind != character.kind && *at != '\'';
    if (cut && next >= start + from && (!before_space || *next == ' ')) {
      return static_cast<size_t>(next - start);
    }
    at = next;
    character = following;
  }
  return text.size();
}

}  // namespace gigagpt::formats
