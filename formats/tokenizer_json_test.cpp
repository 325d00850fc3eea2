// Hugging Face's files of byte-level tokenizers: what is read, and what must be refused.
#include "formats/tokenizer_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/testing.h"
#include "formats/gpt2_split.h"
#include "formats/tokenizer.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;
using Tokens = std::vector<int32_t>;

json vocab_json(const std::vector<std::string>& more) {
  json vocab = json::object();
  int id = 0;
  for (const uint8_t byte : bytes_in_token_order()) {
    vocab[to_byte_level(std::string(1, static_cast<char>(byte)))] = id++;
  }
  for (const std::string& text : more) vocab[text] = id++;
  return vocab;
}

// "a b", "ab c" and " ab" merge; <|endoftext|> is 259.
json file_json() {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 259},
             {"content", "<|endoftext|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", true},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", {{"type", "ByteLevel"}, {"trim_offsets", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", "<|endoftext|>"},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"vocab", vocab_json({"ab", "abc",
                                  "\xC4\xA0"
                                  "ab",
                                  "<|endoftext|>"})},
            {"merges", {"a b", "ab c", "\xC4\xA0 ab"}}}}};
}

Tokenizer parse(const json& file) {
  return Tokenizer::parse(file.dump(), "t.json");
}

const std::string kText = "abc ab cab";
const Tokens kTokens = {257, 258, 220, 66, 256};  // "abc", " ab", " ", "c", "ab"

TEST(TokenizerJson, ReadsHuggingFacesForms) {
  json file = file_json();
  EXPECT_EQ(parse(file).encode(kText), kTokens);
  file["model"]["merges"] = json::parse(R"([["a", "b"], ["ab", "c"], ["\u0120", "ab"]])");
  EXPECT_EQ(parse(file).encode(kText), kTokens);
  file["model"].erase("type");  // as GPT-2's own
  file["model"]["ignore_merges"] = false;
  file["model"]["byte_fallback"] = false;
  file["model"]["dropout"] = 0.0;
  EXPECT_EQ(parse(file).encode(kText), kTokens);
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {byte_level}}};
  EXPECT_EQ(parse(file).encode(kText), kTokens);
  json only_bytes = byte_level;
  only_bytes["use_regex"] = false;
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kGpt2Pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, only_bytes}}};
  EXPECT_EQ(parse(file).encode(kText), kTokens);
  file = file_json();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(parse(file).encode("ab"), Tokens{258});
  EXPECT_TRUE(parse(file).adds_prefix_space());
}

TEST(TokenizerJson, AddedTokensMayFollowTheVocabulary) {
  json file = file_json();
  json added = file["added_tokens"][0];
  for (const auto& [text, id] : {std::pair("<pad>", 260), std::pair("  ", 261)}) {
    added["content"] = text;
    added["id"] = id;
    added["special"] = id == 260;
    file["added_tokens"].push_back(added);
  }
  const Tokenizer tokenizer = parse(file);
  EXPECT_EQ(tokenizer.vocab_size(), 262);
  EXPECT_EQ(tokenizer.end_of_text(), 259);
  EXPECT_EQ(tokenizer.encode_with_special("a<pad>  <|endoftext|>"), (Tokens{64, 260, 261, 259}));
  EXPECT_EQ(tokenizer.decode(261), "  ");
  EXPECT_EQ(tokenizer.decode(262), "\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.decode(-1), "\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.decode(258), " ab");
  EXPECT_EQ(tokenizer.token_text(258),
            "\xC4\xA0"
            "ab");
  EXPECT_TRUE(tokenizer.is_added(261));
  EXPECT_FALSE(tokenizer.is_special(261));
  EXPECT_TRUE(tokenizer.is_special(260));
  EXPECT_FALSE(tokenizer.is_added(258));
  EXPECT_EQ(tokenizer.token_of('a'), 64);
  EXPECT_EQ(tokenizer.token_of('\n'), 198);
  EXPECT_EQ(tokenizer.token_of(0xE9), -1);
}

TEST(TokenizerJson, SavedReadsBackTheSame) {
  const TemporaryDirectory directory;
  json file = file_json();
  file["pre_tokenizer"]["add_prefix_space"] = true;
  json pad = file["added_tokens"][0];
  pad["content"] = "<pad>";
  pad["id"] = 260;
  pad["special"] = pad["normalized"] = false;
  file["added_tokens"].push_back(pad);
  const Tokenizer tokenizer = parse(file);
  tokenizer.save(directory.path());
  const Tokenizer loaded = Tokenizer::load(directory.path());
  EXPECT_EQ(loaded.encode(kText), tokenizer.encode(kText));
  EXPECT_EQ(loaded.encode_with_special("a<pad><|endoftext|>"),
            tokenizer.encode_with_special("a<pad><|endoftext|>"));
  EXPECT_EQ(loaded.merges(), tokenizer.merges());
  EXPECT_TRUE(loaded.adds_prefix_space());
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    ASSERT_EQ(loaded.token_text(id), tokenizer.token_text(id));
    ASSERT_EQ(loaded.is_special(id), tokenizer.is_special(id));
  }
  const std::string once = read_text(directory / "tokenizer.json");
  loaded.save(directory.path());
  EXPECT_EQ(read_text(directory / "tokenizer.json"), once);
}

TEST(TokenizerJson, FoldersOfEachKind) {
  const std::string vocab = file_json()["model"]["vocab"].dump();
  const std::string merges = "#version: 0.2\na b\nab c\n\xC4\xA0 ab\n";
  for (const auto& [vocab_name, merges_name] :
       {std::pair("vocab.json", "merges.txt"), std::pair("encoder.json", "vocab.bpe")}) {
    const TemporaryDirectory directory;
    directory.write(vocab_name, vocab);
    EXPECT_ERROR(Tokenizer::load(directory.path()), merges_name);
    directory.write(merges_name, merges);
    const Tokenizer tokenizer = Tokenizer::load(directory.path());
    EXPECT_EQ(tokenizer.encode(kText), kTokens);
    EXPECT_EQ(tokenizer.end_of_text(), 259);
    directory.write(merges_name, "a b\r\nab c\r\n\xC4\xA0 ab");
    EXPECT_EQ(Tokenizer::load(directory.path()).encode(kText), kTokens);
    directory.write("added_tokens.json", "{}");
    EXPECT_ERROR(Tokenizer::load(directory.path()),
                 "added_tokens.json: not read without a tokenizer.json");
    directory.write("tokenizer.json", file_json().dump());
    EXPECT_EQ(Tokenizer::load(directory.path()).encode(kText), kTokens);
    EXPECT_EQ(Tokenizer::load(directory / "tokenizer.json").encode(kText), kTokens);
  }
}

TEST(TokenizerJsonHostile, BadMergesFileIsRefusedWithItsLine) {
  const std::string vocab = file_json()["model"]["vocab"].dump();
  for (const auto& bad : std::vector<std::pair<std::string, std::string>>{
           {"#version: 0.2\na b\nx y z\n", "m: line 3: \"x y z\" is not two tokens"},
           {"a b\n\nab c\n", "m: line 2: \"\" is not two tokens"},
           {"a b\na b\n", "m: line 2: \"a\" and \"b\" come twice"},
           {"a nosuch\n", "m: line 1: the vocabulary has no token \"nosuch\""},
           {"a c\n", "m: line 1: the vocabulary has no token \"ac\""},
           {"a \n", "m: line 1: the vocabulary has no token \"\""},
           {"a b\n\xFF b\n", "m: line 2: byte 0 is not valid UTF-8"},
           {std::string("a\0b\n", 4), "m: line 1: \"a\\u0000b\" is not two"}}) {
    EXPECT_ERROR(parse_vocab_and_merges({vocab, "v"}, {bad.first, "m"}), bad.second);
  }
  EXPECT_ERROR(parse_vocab_and_merges({"[]", "v"}, {"", "m"}), "v: not a tokenizer");
  EXPECT_ERROR(parse_vocab_and_merges({"{}", "v"}, {"", "m"}), "v: there is no token");
  EXPECT_ERROR(parse_vocab_and_merges({"{", "v"}, {"", "m"}), "v: not a tokenizer");
}

// Each changes one thing; the message must name it.
TEST(TokenizerJsonHostile, WhatHuggingFaceWouldDoOtherwiseIsRefused) {
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const json bytes_only = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const json other_split = {
      {"type", "Split"}, {"pattern", {{"Regex", "\\s+"}}}, {"behavior", "Isolated"}};
  json removed = other_split;
  removed["pattern"]["Regex"] = kGpt2Pattern;
  removed["behavior"] = "Removed";
  const auto sequence = [](const json& parts) {
    return json{{"type", "Sequence"}, {"pretokenizers", parts}};
  };
  for (const auto& [pointer, value, message] :
       std::vector<std::tuple<const char*, json, const char*>>{
           {"/normalizer", {{"type", "NFC"}}, "t.json: normalizer is NFC"},
           {"/truncation", {{"max_length", 8}}, "t.json: truncation is"},
           {"/padding", {{"strategy", "BatchLongest"}}, "t.json: padding is"},
           {"/pre_tokenizer", nullptr, "pre_tokenizer is null"},
           {"/pre_tokenizer", {{"type", "Whitespace"}}, "pre_tokenizer is Whitespace"},
           {"/pre_tokenizer", "ByteLevel", "add_prefix_space is missing"},
           {"/pre_tokenizer", {{"type", "ByteLevel"}}, "add_prefix_space is missing"},
           {"/pre_tokenizer", bytes_only, "use_regex is false"},
           {"/pre_tokenizer", sequence({digits, byte_level}), "pre_tokenizer is {"},
           {"/pre_tokenizer", sequence({other_split, bytes_only}),
            "pattern is {\"Regex\":\"\\\\s+\"}"},
           {"/pre_tokenizer", sequence({removed, bytes_only}), "behavior is \"Removed\""},
           {"/pre_tokenizer", sequence(json::array()), "pre_tokenizer is {"},
           {"/pre_tokenizer", sequence(sequence({byte_level})), "pre_tokenizer is {"},
           {"/pre_tokenizer/add_prefix_space", 1, "add_prefix_space is 1"},
           {"/post_processor",
            {{"type", "TemplateProcessing"}},
            "post_processor is TemplateProcessing"},
           {"/decoder", nullptr, "decoder is null"},
           {"/decoder", {{"type", "WordPiece"}}, "decoder is WordPiece"},
           {"/model/type", "Unigram", "model: type is \"Unigram\""},
           {"/model/type", "WordPiece", "model: type is \"WordPiece\""},
           {"/model/dropout", 0.1, "model: dropout is 0.1"},
           {"/model/dropout", "0", "model: dropout is \"0\""},
           {"/model/continuing_subword_prefix", "##", "continuing_subword_prefix is \"##\""},
           {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix is \"</w>\""},
           {"/model/ignore_merges", true, "ignore_merges is true"},
           {"/model/merges", nullptr, "model.merges is null, not a list"},
           {"/model/merges/1", 5, "model.merges[1]: 5 is neither"},
           {"/model/merges/1", {"ab"}, "model.merges[1]: [\"ab\"] is neither"},
           {"/model/merges/1", {"ab", 1}, "model.merges[1]: [\"ab\",1] is neither"},
           {"/model/merges/1", "abc", "model.merges[1]: \"abc\" is not two tokens"},
           {"/model/merges/1", "a b", "model.merges[1]: \"a\" and \"b\" come twice"},
           {"/model/merges/1", "ab zz", "model.merges[1]: the vocabulary has no token \"zz\""},
           {"/model/merges/1", "ab a", "model.merges[1]: the vocabulary has no token \"aba\""},
           {"/model/vocab", json::array(), "model.vocab: [], not an object"},
           {"/model/vocab/ab", 300, "model.vocab: ab is 300, not a whole number from 0 to 259"},
           {"/model/vocab/ab", 257, "model.vocab: the id 257 appears twice"},
           {"/model/vocab/ab", 1e300, "model.vocab: ab is"},
           {"/model/vocab/ab", 18446744073709551615U, "model.vocab: ab is 18446744073709551615"},
           {"/model/vocab/ab", nullptr, "model.vocab: ab is null"},
           {"/added_tokens", {{"a", 1}}, "added_tokens is {\"a\":1}, not a list"},
           {"/added_tokens/0", 1, "added_tokens[0]: 1, not an object"},
           {"/added_tokens/0/id", 260, "added_tokens[0]: the id of \"<|endoftext|>\" is 260"},
           {"/added_tokens/0/id", "259", "added_tokens[0]: id is \"259\""},
           {"/added_tokens/0/content", "", "added_tokens[0]: content is \"\""},
           {"/added_tokens/0/content", "new",
            "added_tokens[0]: the id of \"new\" is 259 where 260"},
           {"/added_tokens/0/content", nullptr, "added_tokens[0]: content is null"},
           {"/added_tokens/0/lstrip", true, "added_tokens[0]: lstrip is true"},
           {"/added_tokens/0/single_word", true, "added_tokens[0]: single_word is true"},
           {"/added_tokens/0/special", 0, "added_tokens[0]: special is 0, not true or false"}}) {
    json file = file_json();
    file[json::json_pointer(pointer)] = value;
    EXPECT_ERROR(parse(file), message) << pointer << " " << value;
    EXPECT_ERROR(parse(file), "t.json: ") << pointer;
  }
}

TEST(TokenizerJsonHostile, IncompleteAndContradictingFilesAreRefused) {
  json file = file_json();
  const int id = file["model"]["vocab"]["z"];
  file["model"]["vocab"].erase("z");
  file["model"]["vocab"]["zz"] = id;
  EXPECT_ERROR(parse(file), "t.json: model.vocab: there is no token 'z' for the byte 0x7A");
  file = file_json();
  file["added_tokens"][0]["content"] = "ab";
  file["added_tokens"][0]["id"] = 256;
  EXPECT_ERROR(parse(file), "\"ab\" is an added token and a byte or part of a merge too");
  file["added_tokens"][0]["content"] = "a";
  file["added_tokens"][0]["id"] = 64;
  EXPECT_ERROR(parse(file), "\"a\" is an added token and a byte");
  file = file_json();
  file["added_tokens"].push_back(file["added_tokens"][0]);
  EXPECT_ERROR(parse(file), "added_tokens[1]: \"<|endoftext|>\" appears twice");
  file = file_json();
  file["added_tokens"][0].erase("id");
  EXPECT_ERROR(parse(file), "added_tokens[0]: id is missing");
}

TEST(TokenizerJsonHostile, DeepNestingIsRefused) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string deep = "{\"model\": ";
    for (int i = 0; i < 200000; ++i) deep += open;
    EXPECT_ERROR(Tokenizer::parse(deep, "t.json"), "t.json: not a tokenizer: nested");
  }
}

TEST(TokenizerJsonHostile, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  const std::string whole = file_json().dump();
  std::mt19937_64 random(6);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = damaged(whole, random);
    ASSERT_TRUE(returns_or_throws_error([&] {
      const Tokenizer tokenizer = Tokenizer::parse(text, "t.json");
      tokenizer.save(directory.path());
      const Tokenizer again = Tokenizer::load(directory.path());
      ASSERT_EQ(again.vocab_size(), tokenizer.vocab_size());
      for (int32_t token = -1; token <= tokenizer.vocab_size(); ++token) {
        ASSERT_EQ(again.decode(token), tokenizer.decode(token));
      }
      if (!tokenizer.is_character_level()) tokenizer.encode_with_special(text.substr(0, 300));
    })) << text;
  }
}

}  // namespace
}  // namespace gigagpt::formats
