#include "formats/model_config.h"

#include "formats/bpe.h"
#include "formats/json.h"
#include "formats/tokenizer.h"

namespace gigagpt::formats {
namespace {

using nlohmann::ordered_json;

void write_tokenizer_config(const Path& directory, int64_t max_length, bool has_end) {
  ordered_json root = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                       {"model_max_length", max_length},
                       {"clean_up_tokenization_spaces", false}};
  if (has_end) {
    for (const char* key : {"bos_token", "eos_token", "unk_token"}) root[key] = kEndOfText;
  }
  write_text_atomically(directory / "tokenizer_config.json", to_text(root, 2) + "\n");
}

}  // namespace

ordered_json architectures(const std::string& name, bool plain) {
  return plain ? ordered_json::array({name}) : ordered_json::array();
}

void write_model_config(const Path& directory, ordered_json root, const TextPairs& own,
                        int64_t max_length, const std::string& tokenizer) {
  ordered_json end_of_text;  // null: none
  if (!tokenizer.empty()) {
    const auto id = Tokenizer::parse(tokenizer, "tokenizer.json").end_of_text();
    if (id) end_of_text = *id;
    Tokenizer::write(directory, tokenizer);
    write_tokenizer_config(directory, max_length, id.has_value());
  }
  for (const char* key : {"bos_token_id", "eos_token_id"}) root[key] = end_of_text;
  for (const auto& [key, value] : own) root["gigagpt"][key] = value;
  write_text_atomically(directory / "config.json", to_text(root, 2) + "\n");
}

TextPairs read_own_keys(const Path& directory) {
  const Path path = directory / "config.json";
  try {
    const auto root = parse_json<ordered_json>(read_text(path), path.string());
    TextPairs own;
    if (!root.is_object() || !root.contains("gigagpt")) return own;
    for (const auto& [key, value] : root["gigagpt"].items())
      own.emplace_back(key, value.get<std::string>());
    return own;
  } catch (const ordered_json::exception& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

}  // namespace gigagpt::formats
