// A tokenizer.json, a zero byte, a text to encode. A second zero byte makes the first two parts a
// vocab.json and a merges.txt.
#include "formats/tokenizer.h"

#include "formats/tokenizer_json.h"
#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

using formats::Tokenizer;

std::string decoded(const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) {
    GIGAGPT_ASSERT(token >= 0 && token < tokenizer.vocab_size());
    text += tokenizer.decode(token);
  }
  return text;
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  GIGAGPT_ASSERT(tokenizer.vocab_size() >= 0);
  for (int64_t token = -1; token <= tokenizer.vocab_size(); ++token) {
    tokenizer.decode(int32_t(token));
  }
  if (const auto end = tokenizer.end_of_text()) GIGAGPT_ASSERT(*end < tokenizer.vocab_size());
  formats::Tokenizer again = tokenizer;
  tokenizer.save(fuzz::scratch());
  again = Tokenizer::load(fuzz::scratch());
  GIGAGPT_ASSERT(again.vocab_size() == tokenizer.vocab_size());
  const auto tokens = tokenizer.encode(text);
  const std::string back = decoded(tokenizer, tokens);
  const bool prefixed = tokenizer.adds_prefix_space() && !text.empty() && text.front() != ' ';
  GIGAGPT_ASSERT(back == (prefixed ? " " : "") + std::string(text));
  GIGAGPT_ASSERT(again.encode(text) == tokens);
  const auto special = tokenizer.encode_with_special(text);
  decoded(tokenizer, special);
  GIGAGPT_ASSERT(again.encode_with_special(text) == special);
}

void check(std::string_view input) {
  const auto [first, rest] = fuzz::split(input);
  const auto [second, text] = fuzz::split(rest);
  if (rest.find('\0') == std::string_view::npos) {
    use(Tokenizer::parse(first, "tokenizer.json"), rest);
  } else {
    use(Tokenizer(formats::Bpe(
            formats::parse_vocab_and_merges({first, "vocab.json"}, {second, "merges.txt"}))),
        text);
  }
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
