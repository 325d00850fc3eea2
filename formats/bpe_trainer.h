// Learns the merges of byte-level byte-pair encoding (Sennrich et al. 2016) from text, like Hugging
// Face's BpeTrainer with the alphabet of all bytes: of all pairs of neighbouring tokens in the
// pre-tokens seen, the one that occurs most often becomes a token, again and again. Of pairs that
// occur equally often it is that whose left token has the lower id, then whose right one has. Ids
// are GPT-2's way: bytes in the order of their byte-level characters, merges in the order they
// were found, and <|endoftext|> last.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "formats/tokenizer.h"

namespace gigagpt::formats {

class BpeTrainer {
 public:
  static constexpr int64_t kMinVocabSize = 257;  // all bytes and <|endoftext|>

  // `max_memory_bytes` is about what it may take. Where more is needed to know all pre-tokens,
  // those seen once are forgotten, then those seen twice, up to four times, and so on.
  explicit BpeTrainer(size_t max_memory_bytes = size_t{1} << 30);

  // Counts the pre-tokens of a text. The order of texts makes no difference, unless some pre-tokens
  // must be forgotten.
  void add(std::string_view document);
  int64_t forgotten() const { return forgotten_; }  // pre-tokens, as often as they were

  // Calls progress(share) now and then. Throws Error, with how many there are, if the text has too
  // few pairs for that many tokens.
  Tokenizer train(int64_t vocab_size, const std::function<void(double)>& progress) const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  void forget_rare();

  size_t max_memory_bytes_;
  size_t memory_bytes_ = 0;  // an estimate, of training too
  int64_t forgotten_ = 0;
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts_;  // by pre-token
};

}  // namespace gigagpt::formats
