// Text to token ids and back, in the `tokenizer.json` of Hugging Face's tokenizers library: a token
// a character, or GPT-2's byte-level byte-pair encoding (formats/bpe.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/utf8.h"

namespace gigagpt::formats {

class Bpe;
struct Alphabet;

// A value: copies share what they are made of. Const members may be called from several threads.
class Tokenizer {
 public:
  // Character level: token i is the i-th code point of the alphabet. Written as a byte-pair model
  // without merges, which Hugging Face's library reads as it is.
  explicit Tokenizer(std::vector<char32_t> alphabet);
  explicit Tokenizer(Bpe bpe);

  // Reads a tokenizer.json, or what a folder (a data set, a checkpoint, one of Hugging Face's)
  // holds: tokenizer.json, else vocab.json and merges.txt, else encoder.json and vocab.bpe. Throws
  // Error for anything that Hugging Face's library would compute otherwise, naming file and key.
  static Tokenizer load(const Path& path);
  // The content of a tokenizer.json; `where` names it in errors.
  static Tokenizer parse(std::string_view text, const std::string& where);
  void save(const Path& directory) const;  // directory/tokenizer.json
  // Reads a directory's tokenizer.json as it is on disk ("" if it has none) and throws Error if it
  // is not one; writes it back.
  static std::string read(const Path& directory);
  static void write(const Path& directory, const std::string& text);

  int64_t vocab_size() const;

  // The text's tokens; "<|endoftext|>" in it is text like any other. Byte level takes any bytes.
  // Character level throws Error naming the first character that is not in the vocabulary.
  std::vector<int32_t> encode(std::string_view text) const;
  // The same, but where the text has an added token ("<|endoftext|>") that becomes its id.
  std::vector<int32_t> encode_with_special(std::string_view text) const;
  // The first place inside the text, at or after `from`, where it can be cut so that encode() of
  // the parts gives the tokens of the whole; text.size() if there is none.
  size_t safe_cut(std::string_view text, size_t from) const;

  // Its bytes, which may be part of a character; "\uFFFD" for an id outside the vocabulary.
  std::string decode(int32_t token) const;
  int32_t token_of(char32_t code_point) const;  // -1 if no single token is that character
  std::optional<int32_t> end_of_text() const;   // the id of <|endoftext|>, if there is one
  // True where repeated n-grams are natural (characters), so that sampling must not forbid them.
  bool is_character_level() const;

  // For other formats. Token texts are as tokenizer.json has them: GPT-2's printable stand-ins for
  // bytes, but added tokens and characters as they are.
  std::string token_text(int32_t token) const;
  std::vector<std::string> merges() const;  // "left right" by rank; none at character level
  bool adds_prefix_space() const;           // before text that does not begin with one
  bool is_added(int32_t token) const;       // never the outcome of encode()
  bool is_special(int32_t token) const;     // added and special: not to be shown as text

 private:
  std::shared_ptr<const Alphabet> alphabet_;  // one of the two is null
  std::shared_ptr<const Bpe> bpe_;
};

// Throws Error if a data set's tokenizer gives tokens that mean something else to a model: both are
// folders, compared if both have one that can be read.
void check_same_tokens(const Path& model, const Path& dataset);

}  // namespace gigagpt::formats
