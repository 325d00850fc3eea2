// Byte-level byte-pair encoding (Sennrich et al. 2016; over bytes as in GPT-2, Radford et al.
// 2019): text is cut into pre-tokens (formats/gpt2_split.h), each starts as a token per byte, and
// of all neighbours that some merge joins, those of the lowest rank, the leftmost first, are joined
// until none are left.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace gigagpt::formats {

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

// GPT-2's byte-level form: each byte as a printable character, itself where it is one of '!' to
// '~', U+00A1 to U+00AC or U+00AE to U+00FF, the others in order from U+0100 on.
std::string to_byte_level(std::string_view bytes);
// The bytes again; nothing if there is any other character.
std::optional<std::string> from_byte_level(std::string_view text);
// The bytes in the order of their characters, which is the order of GPT-2's first 256 tokens.
std::array<uint8_t, 256> bytes_in_token_order();

// A token that stands for itself and is looked for in text before anything else.
struct AddedToken {
  int32_t id;
  bool special;     // left out of text that is shown
  bool normalized;  // looked for after those that are not
};

struct BpeVocabulary {
  struct Merge {
    int32_t left, right, result;
  };
  std::vector<std::string> tokens;  // by id, byte-level form; added tokens as they are
  std::vector<Merge> merges;        // by rank; no pair twice
  std::vector<AddedToken> added;    // no id twice; in no merge
  bool add_prefix_space = false;    // before text that does not begin with one
};

class Bpe {
 public:
  // All 256 bytes must be among the tokens, no token twice, and all ids in range.
  explicit Bpe(BpeVocabulary vocabulary);
  Bpe(Bpe&&) = default;

  const BpeVocabulary& vocabulary() const { return vocabulary_; }

  // These append the tokens of any bytes. Each thread that calls keeps the pre-tokens that it met
  // last (2 MiB). The second looks for added tokens.
  void encode(std::string_view text, std::vector<int32_t>& tokens) const;
  void encode_with_added(std::string_view text, std::vector<int32_t>& tokens) const;
  size_t safe_cut(std::string_view text, size_t from) const;  // see Tokenizer

  const std::string& bytes_of(int32_t token) const { return bytes_[static_cast<size_t>(token)]; }
  std::optional<int32_t> find(std::string_view bytes) const;  // a token that is not added
  const AddedToken* find_added(int32_t token) const;          // null: it is not an added one

 private:
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  // Of a table in open addressing, at most half full.
  struct Slot {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = kNoMerge;
  };

  void index_tokens();
  void index_merges();
  size_t slot_of(uint64_t pair) const;  // its own, or the one it would take
  uint32_t rank(int32_t left, int32_t right) const;
  void append_word(std::string_view word, std::vector<int32_t>& tokens) const;
  void append_short(std::string_view word, std::vector<int32_t>& tokens) const;
  void append_long(std::string_view word, std::vector<int32_t>& tokens) const;
  void encode_parts(std::string_view text, bool normalized, std::vector<int32_t>& tokens) const;
  const AddedToken* added_at(std::string_view text, bool normalized) const;

  BpeVocabulary vocabulary_;
  uint64_t serial_;                 // of this vocabulary in this process, for the threads' caches
  std::vector<std::string> bytes_;  // by id
  std::unordered_map<std::string_view, int32_t> ids_;  // keys are in bytes_; without added tokens
  std::array<int32_t, 256> byte_tokens_{};
  std::vector<uint32_t> byte_ranks_;  // 256 x 256: ranks of pairs of single bytes
  std::vector<Slot> slots_;
  std::vector<AddedToken> longest_added_first_;
};

}  // namespace gigagpt::formats
