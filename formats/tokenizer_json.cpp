#include "formats/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "formats/gpt2_split.h"
#include "formats/json.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using Ids = std::unordered_map<std::string, int32_t>;

json parse_object(std::string_view text, const std::string& where) {
  json root = parse_json<json>(text, where + ": not a tokenizer");
  if (!root.is_object()) fail("{}: not a tokenizer: not an object", where);
  return root;
}

// The value of a key; null if there is none.
const json& value_of(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// A value for a message: not all of a long one.
std::string shown(const json& value) {
  return shortened(to_text(value));
}

// The value of a key that must be an object.
const json& object_at(const json& object, const char* key, const std::string& where) {
  const json& value = value_of(object, key);
  if (!value.is_object()) fail("{}: {} is {}, not an object", where, key, shown(value));
  return value;
}

bool flag(const json& object, const char* key, bool absent, const std::string& where) {
  const json& value = value_of(object, key);
  if (value.is_null()) return absent;
  if (!value.is_boolean()) fail("{}: {} is {}, not true or false", where, key, shown(value));
  return value.get<bool>();
}

// The "type" of a part, such as "ByteLevel"; "null" if there is none.
std::string type_of(const json& part) {
  if (part.is_null()) return "null";
  const json& type = part.is_object() ? value_of(part, "type") : part;
  return type.is_string() ? type.get<std::string>() : shown(part);
}

[[noreturn]] void fail_foreign(const std::string& where, const std::string& key,
                               const std::string& value, const char* wanted) {
  fail("{}: {} is {}; only {} is supported", where, key, value, wanted);
}

void check_absent(const json& root, const char* key, const std::string& where) {
  const json& value = value_of(root, key);
  if (!value.is_null()) fail_foreign(where, key, type_of(value), "null");
}

// True if it puts a space before text.
bool parse_byte_level(const json& part, bool cuts, const std::string& where) {
  const std::string key = where + ": pre_tokenizer";
  if (!part.contains("add_prefix_space")) fail("{}: add_prefix_space is missing", key);
  if (flag(part, "use_regex", true, key) != cuts) {
    fail_foreign(key, "use_regex", cuts ? "false" : "true", "GPT-2's way of cutting text");
  }
  const bool prefix = flag(part, "add_prefix_space", false, key);
  if (prefix && !cuts) fail_foreign(key, "add_prefix_space", "true", "false after a Split");
  return prefix;
}

void check_split(const json& split, const std::string& where) {
  const std::string key = where + ": pre_tokenizer: Split";
  const json& pattern = object_at(split, "pattern", key);
  if (value_of(pattern, "Regex") != kGpt2Pattern) {
    fail_foreign(key, "pattern", shown(pattern), "GPT-2's regular expression");
  }
  if (value_of(split, "behavior") != "Isolated") {
    fail_foreign(key, "behavior", shown(value_of(split, "behavior")), "Isolated");
  }
  if (flag(split, "invert", false, key)) fail_foreign(key, "invert", "true", "false");
}

// ByteLevel, by itself or as a Sequence, or cut by the same regular expression beforehand.
bool parse_pre_tokenizer(const json& part, const std::string& where) {
  const std::string type = type_of(part);
  if (type == "ByteLevel") return parse_byte_level(part, true, where);
  if (type != "Sequence") fail_foreign(where, "pre_tokenizer", type, "ByteLevel");
  const json& parts = value_of(part, "pretokenizers");
  if (parts.is_array() && parts.size() == 1 && type_of(parts[0]) == "ByteLevel") {
    return parse_byte_level(parts[0], true, where);
  }
  if (parts.is_array() && parts.size() == 2 && type_of(parts[0]) == "Split" &&
      type_of(parts[1]) == "ByteLevel") {
    check_split(parts[0], where);
    return parse_byte_level(parts[1], false, where);
  }
  fail_foreign(where, "pre_tokenizer", shown(part), "ByteLevel, or Split and ByteLevel");
}

// Each key's id; the ids are 0 to their number - 1.
Ids parse_vocab(const json& vocab, const std::string& where) {
  if (!vocab.is_object()) fail("{}: {}, not an object", where, shown(vocab));
  Ids ids;
  ids.reserve(vocab.size());
  std::vector<bool> seen(vocab.size());
  const auto last = static_cast<int64_t>(vocab.size()) - 1;
  for (const auto& [text, _] : vocab.items()) {
    const int64_t id = whole_number(vocab, text, 0, last, where);
    if (seen[static_cast<size_t>(id)]) {
      fail("{}: the id {} appears twice, the second time for {}", where, id, shown(text));
    }
    seen[static_cast<size_t>(id)] = true;
    ids.emplace(text, static_cast<int32_t>(id));
  }
  return ids;
}

Characters parse_characters(const Ids& ids, const std::string& where) {
  Characters characters(ids.size());
  for (const auto& [text, id] : ids) {
    size_t position = 0;
    const char32_t character = next_code_point(text, position, where + ": model.vocab");
    if (position != text.size()) {
      fail(
          "{}: model.vocab: the token {} is not one character, as it must be where pre_tokenizer "
          "is null; byte-level models have ByteLevel there",
          where, shown(text));
    }
    characters[static_cast<size_t>(id)] = character;
  }
  return characters;
}

// Collects the merges of a list.
class MergeReader {
 public:
  MergeReader(const Ids& ids, std::vector<BpeVocabulary::Merge>& merges)
      : ids_(ids), merges_(merges) {}

  // `where` names the merge.
  void add(const std::string& left, const std::string& right, const std::string& where) {
    const BpeVocabulary::Merge merge = {id_of(left, where), id_of(right, where),
                                        id_of(left + right, where)};
    const uint64_t pair =
        static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right);
    if (!pairs_.insert(pair).second) {
      fail("{}: {} and {} come twice", where, shown(left), shown(right));
    }
    merges_.push_back(merge);
  }
  // "left right"
  void add(const std::string& text, const std::string& where) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail("{}: {} is not two tokens with a space between", where, shown(text));
    }
    add(text.substr(0, space), text.substr(space + 1), where);
  }

 private:
  int32_t id_of(const std::string& text, const std::string& where) const {
    const auto found = ids_.find(text);
    if (found == ids_.end()) fail("{}: the vocabulary has no token {}", where, shown(text));
    return found->second;
  }

  const Ids& ids_;
  std::vector<BpeVocabulary::Merge>& merges_;
  std::unordered_set<uint64_t> pairs_;
};

void parse_merges(const json& merges, const Ids& ids, const std::string& where,
                  BpeVocabulary& vocabulary) {
  MergeReader reader(ids, vocabulary.merges);
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string key = fmt::format("{}: model.merges[{}]", where, i);
    const json& merge = merges[i];
    if (merge.is_string()) {
      reader.add(merge.get<std::string>(), key);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      reader.add(merge[0].get<std::string>(), merge[1].get<std::string>(), key);
    } else {
      fail("{}: {} is neither \"a b\" nor [\"a\", \"b\"]", key, shown(merge));
    }
  }
}

void parse_added_token(const json& token, const Ids& ids, const std::string& where,
                       BpeVocabulary& vocabulary) {
  if (!token.is_object()) fail("{}: {}, not an object", where, shown(token));
  const json& content = value_of(token, "content");
  if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
    fail("{}: content is {}, not a text", where, shown(content));
  }
  const auto& text = content.get_ref<const std::string&>();
  for (const char* key : {"single_word", "lstrip", "rstrip"}) {
    if (flag(token, key, false, where)) fail_foreign(where, key, "true", "false");
  }
  // Hugging Face's library goes by the model's vocabulary, and gives others the ids after it.
  const auto found = ids.find(text);
  const int64_t expected =
      found == ids.end() ? static_cast<int64_t>(vocabulary.tokens.size()) : found->second;
  if (!token.contains("id")) fail("{}: id is missing", where);
  const int64_t id = whole_number(token, "id", INT64_MIN, INT64_MAX, where);
  if (id != expected) {
    fail(
        "{}: the id of {} is {} where {} should be: its id in the vocabulary, or the next after "
        "it",
        where, shown(text), id, expected);
  }
  if (found == ids.end()) vocabulary.tokens.push_back(text);
  const bool special = flag(token, "special", false, where);
  vocabulary.added.push_back(
      {static_cast<int32_t>(id), special, flag(token, "normalized", !special, where)});
}

void parse_added_tokens(const json& tokens, const Ids& ids, const std::string& where,
                        BpeVocabulary& vocabulary) {
  if (tokens.is_null()) return;
  if (!tokens.is_array()) fail("{}: added_tokens is {}, not a list", where, shown(tokens));
  std::unordered_set<std::string> contents;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string key = fmt::format("{}: added_tokens[{}]", where, i);
    parse_added_token(tokens[i], ids, key, vocabulary);
    const std::string& text = vocabulary.tokens[static_cast<size_t>(vocabulary.added.back().id)];
    if (!contents.insert(text).second) fail("{}: {} appears twice", key, shown(text));
  }
}

void fill_tokens(const Ids& ids, BpeVocabulary& vocabulary) {
  vocabulary.tokens.resize(ids.size());
  for (const auto& [text, id] : ids) vocabulary.tokens[static_cast<size_t>(id)] = text;
}

// What Bpe takes for granted. `where` names the vocabulary.
void check_vocabulary(const BpeVocabulary& vocabulary, const Ids& ids, const std::string& where) {
  std::vector<bool> used(vocabulary.tokens.size());
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = to_byte_level(std::string(1, static_cast<char>(byte)));
    const auto found = ids.find(text);
    if (found == ids.end()) {
      fail("{}: there is no token '{}' for the byte 0x{:02X}; all 256 are needed", where, text,
           byte);
    }
    used[static_cast<size_t>(found->second)] = true;
  }
  for (const auto& merge : vocabulary.merges) {
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      used[static_cast<size_t>(id)] = true;
    }
  }
  for (const AddedToken& token : vocabulary.added) {
    if (!used[static_cast<size_t>(token.id)]) continue;
    fail(
        "{}: {} is an added token and a byte or part of a merge too, which this program does not "
        "do",
        where, shown(vocabulary.tokens[static_cast<size_t>(token.id)]));
  }
}

// What would have the model cut words otherwise than by its merges.
void check_model(const json& model, bool byte_level, const std::string& where) {
  const std::string key = where + ": model";
  const json& type = value_of(model, "type");
  const bool old = type.is_null() && byte_level;  // as the first files were
  if (!old && type != "BPE") fail_foreign(key, "type", shown(type), "\"BPE\"");
  const json& dropout = value_of(model, "dropout");
  if (!dropout.is_null() && dropout != 0) fail_foreign(key, "dropout", shown(dropout), "null");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = value_of(model, affix);
    if (!value.is_null() && value != json("")) fail_foreign(key, affix, shown(value), "null");
  }
  if (flag(model, "ignore_merges", false, key)) fail_foreign(key, "ignore_merges", "true", "false");
}

ordered_json added_json(const BpeVocabulary& vocabulary) {
  ordered_json tokens = ordered_json::array();
  std::vector<AddedToken> by_id = vocabulary.added;
  std::sort(by_id.begin(), by_id.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (const AddedToken& token : by_id) {
    tokens.push_back({{"id", token.id},
                      {"content", vocabulary.tokens[static_cast<size_t>(token.id)]},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", token.normalized},
                      {"special", token.special}});
  }
  return tokens;
}

// `cutting` and `decoder` may be null; `texts` are by id.
std::string file_text(const ordered_json& added, const ordered_json& cutting,
                      const ordered_json& decoder, const std::vector<std::string>& texts,
                      const ordered_json& merges) {
  ordered_json::object_t vocab;  // whose own insertion would look for the key among all others
  for (size_t id = 0; id < texts.size(); ++id) vocab.push_back({texts[id], id});
  const bool byte_level = !cutting.is_null();
  const ordered_json root = {{"version", "1.0"},
                             {"truncation", nullptr},
                             {"padding", nullptr},
                             {"added_tokens", added},
                             {"normalizer", nullptr},
                             {"pre_tokenizer", cutting},
                             {"post_processor", byte_level ? cutting : ordered_json()},
                             {"decoder", decoder},
                             {"model",
                              {{"type", "BPE"},
                               {"dropout", nullptr},
                               {"unk_token", nullptr},
                               {"continuing_subword_prefix", nullptr},
                               {"end_of_word_suffix", nullptr},
                               {"fuse_unk", false},
                               {"vocab", std::move(vocab)},
                               {"merges", merges}}}};
  return to_text(root, 1) + "\n";
}

}  // namespace

std::variant<Characters, BpeVocabulary> parse_tokenizer_json(std::string_view text,
                                                             const std::string& where) {
  const json root = parse_object(text, where);
  for (const char* key : {"normalizer", "truncation", "padding"}) check_absent(root, key, where);
  const json& model = object_at(root, "model", where);
  const json& merges = value_of(model, "merges");
  const json& cutting = value_of(root, "pre_tokenizer");
  const bool byte_level = !cutting.is_null();
  check_model(model, byte_level, where);
  if (!merges.is_array()) fail("{}: model.merges is {}, not a list", where, shown(merges));
  const Ids ids = parse_vocab(value_of(model, "vocab"), where + ": model.vocab");
  const json& added = value_of(root, "added_tokens");
  if (!byte_level) {
    if (!merges.empty())
      fail_foreign(where, "pre_tokenizer", "null", "ByteLevel where there are merges");
    if (!added.empty())
      fail_foreign(where, "added_tokens", shown(added), "[] where pre_tokenizer is null");
    return parse_characters(ids, where);
  }
  BpeVocabulary vocabulary;
  vocabulary.add_prefix_space = parse_pre_tokenizer(cutting, where);
  const std::string decoder = type_of(value_of(root, "decoder"));
  if (decoder != "ByteLevel") fail_foreign(where, "decoder", decoder, "ByteLevel");
  const std::string post = type_of(value_of(root, "post_processor"));
  if (post != "null" && post != "ByteLevel") {
    fail_foreign(where, "post_processor", post, "null or ByteLevel, which add no tokens");
  }
  fill_tokens(ids, vocabulary);
  parse_merges(merges, ids, where, vocabulary);
  parse_added_tokens(added, ids, where, vocabulary);
  check_vocabulary(vocabulary, ids, where + ": model.vocab");
  return vocabulary;
}

BpeVocabulary parse_vocab_and_merges(const NamedText& vocab, const NamedText& merges) {
  BpeVocabulary vocabulary;
  const Ids ids = parse_vocab(parse_object(vocab.text, vocab.where), vocab.where);
  fill_tokens(ids, vocabulary);
  MergeReader reader(ids, vocabulary.merges);
  size_t number = 0;
  for (size_t begin = 0; begin < merges.text.size();) {
    const size_t end = std::min(merges.text.find('\n', begin), merges.text.size());
    std::string line(merges.text.substr(begin, end - begin));
    begin = end + 1;
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.starts_with("#version") || (line.empty() && begin >= merges.text.size())) continue;
    const std::string where = fmt::format("{}: line {}", merges.where, number);
    for (size_t i = 0; i < line.size();) next_code_point(line, i, where);
    reader.add(line, where);
  }
  const auto end_of_text = ids.find(std::string(kEndOfText));
  if (end_of_text != ids.end()) vocabulary.added.push_back({end_of_text->second, true, false});
  check_vocabulary(vocabulary, ids, vocab.where);
  return vocabulary;
}

std::string tokenizer_json(const Characters& characters) {
  std::vector<std::string> texts(characters.size());
  for (size_t i = 0; i < texts.size(); ++i) append_utf8(texts[i], characters[i]);
  return file_text(ordered_json::array(), nullptr, {{"type", "Fuse"}}, texts,
                   ordered_json::array());
}

std::string tokenizer_json(const BpeVocabulary& vocabulary) {
  // Added tokens are part of the model's vocabulary, as in GPT-2's own file.
  ordered_json merges = ordered_json::array();
  for (const auto& merge : vocabulary.merges) {
    merges.push_back(vocabulary.tokens[static_cast<size_t>(merge.left)] + " " +
                     vocabulary.tokens[static_cast<size_t>(merge.right)]);
  }
  ordered_json byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", vocabulary.add_prefix_space},
                             {"trim_offsets", true},
                             {"use_regex", true}};
  return file_text(added_json(vocabulary), byte_level, byte_level, vocabulary.tokens, merges);
}

}  // namespace gigagpt::formats
