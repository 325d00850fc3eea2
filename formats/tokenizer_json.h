// Hugging Face's files of a tokenizer: tokenizer.json, and vocab.json (encoder.json) with
// merges.txt (vocab.bpe). Readers throw Error naming file and key, also for whatever Hugging Face's
// library would compute otherwise than formats/bpe.h does.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "formats/bpe.h"

namespace gigagpt::formats {

using Characters = std::vector<char32_t>;  // by id

std::variant<Characters, BpeVocabulary> parse_tokenizer_json(std::string_view text,
                                                             const std::string& where);

struct NamedText {
  std::string_view text;
  std::string where;  // the file, for errors
};

// <|endoftext|> is an added token if it is in the vocabulary.
BpeVocabulary parse_vocab_and_merges(const NamedText& vocab, const NamedText& merges);

std::string tokenizer_json(const Characters& characters);
std::string tokenizer_json(const BpeVocabulary& vocabulary);

}  // namespace gigagpt::formats
