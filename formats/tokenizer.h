// Text to token ids and back, in the `tokenizer.json` of Hugging Face's tokenizers library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"

namespace gigagpt::formats {

// One code point of valid UTF-8 at `text`[position], which moves past it. Throws Error naming
// `what` and the byte where the encoding is bad.
char32_t next_code_point(std::string_view text, size_t& position, std::string_view what);

// Appends the UTF-8 encoding of a code point.
void append_utf8(std::string& text, char32_t code_point);

// A character-level tokenizer: token i is the i-th code point of a sorted alphabet. Written as a
// byte-pair model without merges, which Hugging Face's library reads as it is.
class Tokenizer {
 public:
  explicit Tokenizer(std::vector<char32_t> alphabet);
  static Tokenizer load(const Path& directory);  // reads directory/tokenizer.json
  void save(const Path& directory) const;
  // A directory's tokenizer as it is on disk ("" if it has none), and back.
  static std::string read(const Path& directory);
  static void write(const Path& directory, const std::string& text);

  int64_t vocab_size() const { return static_cast<int64_t>(alphabet_.size()); }
  // Throws Error naming the first character that is not in the vocabulary.
  std::vector<int32_t> encode(std::string_view text) const;
  int32_t token_of(char32_t code_point) const;  // -1 if it has none
  std::string decode(int32_t token) const;      // "\uFFFD" for an id outside the vocabulary
  // True where repeated n-grams are natural (characters), so that sampling must not forbid them.
  bool is_character_level() const { return true; }

 private:
  std::vector<char32_t> alphabet_;
  std::unordered_map<char32_t, int32_t> ids_;
};

}  // namespace gigagpt::formats
