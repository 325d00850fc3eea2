// Where GPT-2 (Radford et al. 2019) cuts text before byte pairs are merged: into the matches, one
// after the other, of
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// Engines differ in \s. Here it is Unicode's White_Space, as in Oniguruma and so in Hugging Face's
// tokenizers, in Rust's regex and so in tiktoken, and in Python's regex: with U+0085, without
// U+180E, U+200B, U+FEFF and U+001C to U+001F. JavaScript's has U+FEFF and lacks U+0085; Python's
// str.isspace has U+001C to U+001F. Categories are of ICU's version of Unicode; a character that
// the Unicode version of another library does not know may be cut otherwise there.
// A byte that is no part of valid UTF-8 counts as a symbol (neither of \s, \p{L} and \p{N}).
#pragma once

#include <cstddef>
#include <string_view>

namespace gigagpt::formats {

// GPT-2's pattern, as files have it.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Where the pre-token that begins at `begin`, which is inside the text, ends.
size_t pre_token_end(std::string_view text, size_t begin);

// The first place inside the text, at or after `from`, where a cut leaves all pre-tokens as they
// are; text.size() if there is none. Only places before a space (U+0020) if `before_space`.
size_t safe_pre_token_cut(std::string_view text, size_t from, bool before_space);

}  // namespace gigagpt::formats
