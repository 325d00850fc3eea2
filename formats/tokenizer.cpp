#include "formats/tokenizer.h"

#include <unordered_map>

#include "base/error.h"
#include "formats/bpe.h"
#include "formats/tokenizer_json.h"

namespace gigagpt::formats {

struct Alphabet {
  std::vector<char32_t> characters;  // by id
  std::unordered_map<char32_t, int32_t> ids;
};

namespace {

std::vector<int32_t> encode_characters(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> tokens;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    const char32_t character = next_code_point(text, position, "text");
    const int32_t token = tokenizer.token_of(character);
    if (token < 0) {
      fail("the character '{}' (U+{:04X}) at byte {} is not in the model's vocabulary",
           text.substr(start, position - start), static_cast<uint32_t>(character), start);
    }
    tokens.push_back(token);
  }
  return tokens;
}

Tokenizer load_folder(const Path& folder) {
  const Path whole = folder / "tokenizer.json";
  if (std::filesystem::exists(whole)) return Tokenizer::parse(read_text(whole), whole.string());
  for (const auto& [vocab_name, merges_name] :
       {std::pair("vocab.json", "merges.txt"), std::pair("encoder.json", "vocab.bpe")}) {
    const Path vocab_path = folder / vocab_name, merges_path = folder / merges_name;
    if (!std::filesystem::exists(vocab_path)) continue;
    const Path added = folder / "added_tokens.json";
    if (std::filesystem::exists(added)) {
      fail(
          "{}: not read without a tokenizer.json, which has all tokens; Hugging Face's library "
          "writes one",
          added.string());
    }
    const std::string vocab = read_text(vocab_path), merges = read_text(merges_path);
    return Tokenizer(
        Bpe(parse_vocab_and_merges({vocab, vocab_path.string()}, {merges, merges_path.string()})));
  }
  // Says which file it is that cannot be opened.
  return Tokenizer::parse(read_text(whole), whole.string());
}

}  // namespace

Tokenizer::Tokenizer(std::vector<char32_t> characters) {
  auto alphabet = std::make_shared<Alphabet>();
  for (size_t i = 0; i < characters.size(); ++i) {
    alphabet->ids[characters[i]] = static_cast<int32_t>(i);
  }
  alphabet->characters = std::move(characters);
  alphabet_ = std::move(alphabet);
}

Tokenizer::Tokenizer(Bpe bpe) : bpe_(std::make_shared<const Bpe>(std::move(bpe))) {}

Tokenizer Tokenizer::load(const Path& path) {
  return std::filesystem::is_directory(path) ? load_folder(path)
                                             : parse(read_text(path), path.string());
}

Tokenizer Tokenizer::parse(std::string_view text, const std::string& where) {
  auto content = parse_tokenizer_json(text, where);
  if (auto* characters = std::get_if<Characters>(&content))
    return Tokenizer(std::move(*characters));
  return Tokenizer(Bpe(std::get<BpeVocabulary>(std::move(content))));
}

void Tokenizer::save(const Path& directory) const {
  write_text_atomically(directory / "tokenizer.json", bpe_ ? tokenizer_json(bpe_->vocabulary())
                                                           : tokenizer_json(alphabet_->characters));
}

std::string Tokenizer::read(const Path& directory) {
  const Path path = directory / "tokenizer.json";
  if (!std::filesystem::exists(path)) return "";
  std::string text = read_text(path);
  parse(text, path.string());
  return text;
}

void Tokenizer::write(const Path& directory, const std::string& text) {
  if (!text.empty()) write_text_atomically(directory / "tokenizer.json", text);
}

int64_t Tokenizer::vocab_size() const {
  const size_t size = bpe_ ? bpe_->vocabulary().tokens.size() : alphabet_->characters.size();
  return static_cast<int64_t>(size);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  if (!bpe_) return encode_characters(*this, text);
  std::vector<int32_t> tokens;
  tokens.reserve(text.size() / 4);
  bpe_->encode(text, tokens);
  return tokens;
}

std::vector<int32_t> Tokenizer::encode_with_special(std::string_view text) const {
  if (!bpe_) return encode_characters(*this, text);
  std::vector<int32_t> tokens;
  bpe_->encode_with_added(text, tokens);
  return tokens;
}

size_t Tokenizer::safe_cut(std::string_view text, size_t from) const {
  if (bpe_) return bpe_->safe_cut(text, from);
  while (from < text.size() && (text[from] & 0xC0) == 0x80) ++from;
  return std::min(from, text.size());
}

int32_t Tokenizer::token_of(char32_t code_point) const {
  if (bpe_) {
    std::string bytes;
    append_utf8(bytes, code_point);
    return bpe_->find(bytes).value_or(-1);
  }
  const auto found = alphabet_->ids.find(code_point);
  return found == alphabet_->ids.end() ? -1 : found->second;
}

std::string Tokenizer::decode(int32_t token) const {
  if (bpe_ && token >= 0 && token < vocab_size()) return bpe_->bytes_of(token);
  std::string text;
  const bool known = !bpe_ && token >= 0 && token < vocab_size();
  append_utf8(text, known ? alphabet_->characters[static_cast<size_t>(token)] : char32_t{0xFFFD});
  return text;
}

std::optional<int32_t> Tokenizer::end_of_text() const {
  if (!bpe_) return std::nullopt;
  for (const AddedToken& token : bpe_->vocabulary().added) {
    if (bpe_->bytes_of(token.id) == kEndOfText) return token.id;
  }
  return std::nullopt;
}

bool Tokenizer::is_character_level() const {
  return !bpe_;
}

std::string Tokenizer::token_text(int32_t token) const {
  if (!bpe_) return decode(token);
  GIGAGPT_ASSERT(token >= 0 && token < vocab_size());
  return bpe_->vocabulary().tokens[static_cast<size_t>(token)];
}

std::vector<std::string> Tokenizer::merges() const {
  std::vector<std::string> texts;
  if (!bpe_) return texts;
  for (const auto& merge : bpe_->vocabulary().merges) {
    texts.push_back(token_text(merge.left) + " " + token_text(merge.right));
  }
  return texts;
}

bool Tokenizer::adds_prefix_space() const {
  return bpe_ && bpe_->vocabulary().add_prefix_space;
}

bool Tokenizer::is_added(int32_t token) const {
  return bpe_ && bpe_->find_added(token) != nullptr;
}

bool Tokenizer::is_special(int32_t token) const {
  return is_added(token) && bpe_->find_added(token)->special;
}

namespace {

std::optional<Tokenizer> load_if_readable(const Path& folder) try {
  return Tokenizer::load(folder);
} catch (const Error&) {
  return std::nullopt;
}

}  // namespace

void check_same_tokens(const Path& model, const Path& dataset) {
  const auto theirs = load_if_readable(model), data = load_if_readable(dataset);
  if (!theirs || !data) return;
  const int64_t known = theirs->vocab_size();
  for (int32_t token = 0; token < data->vocab_size(); ++token) {
    const std::string text = data->token_text(token);
    if (token < known && theirs->token_text(token) == text) continue;
    fail(
        "dataset: {} was made with another tokenizer than the model in {}: token {} is '{}' there, "
        "but {} to the model; prepare the data with --tokenizer {}",
        dataset.string(), model.string(), token, text,
        token < known ? "'" + theirs->token_text(token) + "'" : "nothing", model.string());
  }
}

}  // namespace gigagpt::formats
