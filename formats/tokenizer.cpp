#include "formats/tokenizer.h"

#include "formats/json.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

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

std::vector<char32_t> parse_alphabet(const json& root, const std::string& where) {
  const json& model = root.at("model");
  if (model.at("type") != "BPE" || !model.at("merges").empty()) {
    fail("{}: only character-level tokenizers are supported by this version", where);
  }
  const json& vocab = model.at("vocab");
  if (!vocab.is_object()) fail("{}: vocab is not an object", where);
  std::vector<char32_t> alphabet(vocab.size());
  std::vector<bool> seen(vocab.size());
  const auto last = static_cast<int64_t>(alphabet.size()) - 1;
  for (const auto& [text, _] : vocab.items()) {
    const auto id = static_cast<size_t>(whole_number(vocab, text, 0, last, where));
    size_t position = 0;
    const char32_t character = next_code_point(text, position, where);
    if (position != text.size()) fail("{}: token '{}' is not one character", where, text);
    if (seen[id]) fail("{}: token id {} comes twice", where, id);
    alphabet[id] = character;
    seen[id] = true;
  }
  return alphabet;
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

Tokenizer::Tokenizer(std::vector<char32_t> alphabet) : alphabet_(std::move(alphabet)) {
  for (size_t i = 0; i < alphabet_.size(); ++i) ids_[alphabet_[i]] = static_cast<int32_t>(i);
}

Tokenizer Tokenizer::load(const Path& directory) {
  const Path path = directory / "tokenizer.json";
  try {
    return Tokenizer(parse_alphabet(json::parse(read_text(path)), path.string()));
  } catch (const json::exception& error) {
    fail("{}: not a tokenizer: {}", path.string(), error.what());
  }
}

void Tokenizer::save(const Path& directory) const {
  nlohmann::ordered_json vocab = nlohmann::ordered_json::object();
  for (size_t i = 0; i < alphabet_.size(); ++i) vocab[decode(static_cast<int32_t>(i))] = i;
  const nlohmann::ordered_json root = {{"version", "1.0"},
                                       {"truncation", nullptr},
                                       {"padding", nullptr},
                                       {"added_tokens", json::array()},
                                       {"normalizer", nullptr},
                                       {"pre_tokenizer", nullptr},
                                       {"post_processor", nullptr},
                                       {"decoder", {{"type", "Fuse"}}},
                                       {"model",
                                        {{"type", "BPE"},
                                         {"dropout", nullptr},
                                         {"unk_token", nullptr},
                                         {"continuing_subword_prefix", nullptr},
                                         {"end_of_word_suffix", nullptr},
                                         {"fuse_unk", false},
                                         {"vocab", vocab},
                                         {"merges", json::array()}}}};
  write_text_atomically(directory / "tokenizer.json", root.dump(1) + "\n");
}

std::string Tokenizer::read(const Path& directory) {
  const Path path = directory / "tokenizer.json";
  return std::filesystem::exists(path) ? read_text(path) : "";
}

void Tokenizer::write(const Path& directory, const std::string& text) {
  if (!text.empty()) write_text_atomically(directory / "tokenizer.json", text);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens;
  for (size_t position = 0; position < text.size();) {
    const size_t start = position;
    const char32_t character = next_code_point(text, position, "text");
    const int32_t token = token_of(character);
    if (token < 0) {
      fail("the character '{}' (U+{:04X}) at byte {} is not in the model's vocabulary",
           text.substr(start, position - start), static_cast<uint32_t>(character), start);
    }
    tokens.push_back(token);
  }
  return tokens;
}

int32_t Tokenizer::token_of(char32_t code_point) const {
  const auto found = ids_.find(code_point);
  return found == ids_.end() ? -1 : found->second;
}

std::string Tokenizer::decode(int32_t token) const {
  std::string text;
  const bool known = token >= 0 && token < vocab_size();
  append_utf8(text, known ? alphabet_[static_cast<size_t>(token)] : char32_t{0xFFFD});
  return text;
}

}  // namespace gigagpt::formats
