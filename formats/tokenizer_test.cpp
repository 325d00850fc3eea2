// The tokenizer: UTF-8, round trips, tokenizer.json, and what must be refused.
#include "formats/tokenizer.h"

#include <gtest/gtest.h>

#include <set>

#include <nlohmann/json.hpp>

#include "base/testing.h"

namespace gigagpt::formats {
namespace {

using nlohmann::json;

char32_t only_code_point(const std::string& text) {
  size_t position = 0;
  const char32_t code_point = next_code_point(text, position, "text");
  EXPECT_EQ(position, text.size());
  return code_point;
}

std::string utf8(char32_t code_point) {
  std::string text;
  append_utf8(text, code_point);
  return text;
}

TEST(Utf8, ACharacterThatIsOnlyBegunIsLeftForLater) {
  const std::string text = "a\u00E9\u20AC\U0001F600";  // of one, two, three and four bytes
  const std::set<size_t> ends = {0, 1, 3, 6, 10};
  for (size_t size = 0; size <= text.size(); ++size) {
    const size_t end = *std::prev(ends.upper_bound(size));
    EXPECT_EQ(whole_characters(text.substr(0, size)), end) << size;
  }
  // What can be no character waits for nothing.
  for (const char* bad : {"\x80", "\x80\x80\x80\x80", "\xFF", "a\xC3(", "\xC0"}) {
    EXPECT_EQ(whole_characters(bad), std::string_view(bad).size());
  }
}

TEST(Utf8, KnownCodePoints) {
  // The first and last of each length, and the neighbours of the surrogates.
  const std::vector<std::pair<std::string, char32_t>> known = {{std::string(1, '\0'), 0},
                                                               {"A", 0x41},
                                                               {"\x7F", 0x7F},
                                                               {"\xC2\x80", 0x80},
                                                               {"\xC3\xA9", 0xE9},
                                                               {"\xDF\xBF", 0x7FF},
                                                               {"\xE0\xA0\x80", 0x800},
                                                               {"\xE2\x82\xAC", 0x20AC},
                                                               {"\xED\x9F\xBF", 0xD7FF},
                                                               {"\xEE\x80\x80", 0xE000},
                                                               {"\xEF\xBF\xBF", 0xFFFF},
                                                               {"\xF0\x90\x80\x80", 0x10000},
                                                               {"\xF0\x9F\x98\x80", 0x1F600},
                                                               {"\xF4\x8F\xBF\xBF", 0x10FFFF}};
  for (const auto& [text, code_point] : known) {
    EXPECT_EQ(only_code_point(text), code_point);
    EXPECT_EQ(utf8(code_point), text);
  }
}

TEST(Utf8, InvalidSequencesAreRefusedWithTheirPlace) {
  const std::vector<std::string> invalid = {"\x80",
                                            "\xBF",  // a continuation alone
                                            "\xC0\x80",
                                            "\xC1\xBF",  // overlong
                                            "\xE0\x80\x80",
                                            "\xE0\x9F\xBF",  // overlong
                                            "\xF0\x80\x80\x80",
                                            "\xF0\x8F\xBF\xBF",  // overlong
                                            "\xED\xA0\x80",
                                            "\xED\xBF\xBF",  // surrogates
                                            "\xF4\x90\x80\x80",
                                            "\xF5\x80\x80\x80",  // above U+10FFFF
                                            "\xF8\x88\x80\x80\x80",
                                            "\xFE",
                                            "\xFF",
                                            "\xC3",
                                            "\xE2\x82",
                                            "\xF0\x9F\x98",  // truncated
                                            "\xC3"
                                            "A",
                                            "\xE2\x82"
                                            "A",
                                            "\xF0\x9F\x98"
                                            "A",
                                            "\xE2"
                                            "A\x82"};
  for (const std::string& bytes : invalid) {
    const std::string text = "ab" + bytes;
    size_t position = 2;
    EXPECT_ERROR(next_code_point(text, position, "book.txt"), "book.txt: byte 2 is not valid UTF-8")
        << testing::PrintToString(bytes);
    EXPECT_EQ(position, 2U);
  }
}

TEST(Utf8, EveryCodePointSurvives) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string text = utf8(c);
    size_t position = 0;
    ASSERT_EQ(next_code_point(text, position, "text"), c);
    ASSERT_EQ(position, text.size());
  }
}

TEST(Utf8, RandomBytesNeverReadBeyondTheText) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 20000; ++i) {
    // On the heap and of its exact size, so that the sanitizer sees a byte too many.
    std::vector<char> bytes(1 + random() % 6);
    for (char& byte : bytes) byte = static_cast<char>(random() % 2 ? random() : 0x80 | random());
    const std::string_view text(bytes.data(), bytes.size());
    size_t position = 0;
    ASSERT_TRUE(returns_or_throws_error([&] {
      while (position < text.size()) {
        const size_t begin = position;
        std::string again;
        append_utf8(again, next_code_point(text, position, "text"));
        ASSERT_EQ(again, text.substr(begin, position - begin));
      }
    }));
    ASSERT_LE(position, text.size());
  }
}

const std::vector<char32_t> kAlphabet = {0, '\n', '"', 'a', 'b', '\\', 0xE9, 0x20AC, 0x1F600};

TEST(Tokenizer, EncodesAndDecodes) {
  const Tokenizer tokenizer(kAlphabet);
  EXPECT_EQ(tokenizer.vocab_size(), 9);
  EXPECT_EQ(tokenizer.encode("ab\xC3\xA9\xF0\x9F\x98\x80\n"),
            (std::vector<int32_t>{3, 4, 6, 8, 1}));
  EXPECT_EQ(tokenizer.encode(""), std::vector<int32_t>{});
  EXPECT_EQ(tokenizer.decode(7), "\xE2\x82\xAC");
  EXPECT_EQ(tokenizer.token_of('b'), 4);
  EXPECT_EQ(tokenizer.token_of('c'), -1);
  for (const int32_t outside : {-1, 9, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer.decode(outside), "\xEF\xBF\xBD");
  }
}

TEST(Tokenizer, UnknownCharacterIsNamedWithItsPlace) {
  const Tokenizer tokenizer(kAlphabet);
  EXPECT_ERROR(tokenizer.encode("a\xE2\x82\xAC\xC3\xA8"),
               "the character '\xC3\xA8' (U+00E8) at byte 4 is not in the model's vocabulary");
  EXPECT_ERROR(tokenizer.encode("\xF0\x9F\x98\x81"), "(U+1F601) at byte 0");
  EXPECT_ERROR(tokenizer.encode("ab\xFF"), "byte 2 is not valid UTF-8");
}

TEST(Tokenizer, SavedReadsBackTheSame) {
  const TemporaryDirectory directory;
  std::vector<char32_t> alphabet;
  for (char32_t c = 0; c < 0x11000; c += 17) {
    if (c < 0xD800 || c >= 0xE000) alphabet.push_back(c);
  }
  const Tokenizer tokenizer(alphabet);
  tokenizer.save(directory.path());
  const Tokenizer loaded = Tokenizer::load(directory.path());
  ASSERT_EQ(loaded.vocab_size(), tokenizer.vocab_size());
  std::mt19937_64 random(5);
  std::string text;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 2000; ++i) {
    tokens.push_back(static_cast<int32_t>(random() % alphabet.size()));
    text += tokenizer.decode(tokens.back());
  }
  EXPECT_EQ(loaded.encode(text), tokens);
  std::string decoded;
  for (const int32_t token : tokens) decoded += loaded.decode(token);
  EXPECT_EQ(decoded, text);
}

TEST(Tokenizer, FileIsAByteFallbackFreeBpeModelWithoutMerges) {
  const TemporaryDirectory directory;
  Tokenizer({'a', 0xE9}).save(directory.path());
  const auto root = json::parse(read_text(directory / "tokenizer.json"));
  EXPECT_EQ(root.at("model").at("type"), "BPE");
  EXPECT_EQ(root.at("model").at("vocab"), json({{"a", 0}, {"\xC3\xA9", 1}}));
  EXPECT_EQ(root.at("model").at("merges"), json::array());
  EXPECT_EQ(root.at("decoder").at("type"), "Fuse");
  EXPECT_TRUE(root.at("pre_tokenizer").is_null());
}

TEST(Tokenizer, ReadAndWriteKeepTheFileIfThereIsOne) {
  const TemporaryDirectory from, to;
  Tokenizer::write(to.path(), Tokenizer::read(from.path()));
  EXPECT_TRUE(std::filesystem::is_empty(to.path()));
  Tokenizer({'a'}).save(from.path());
  Tokenizer::write(to.path(), Tokenizer::read(from.path()));
  EXPECT_EQ(read_text(to / "tokenizer.json"), read_text(from / "tokenizer.json"));
}

Tokenizer load_text(const TemporaryDirectory& directory, const std::string& text) {
  directory.write("tokenizer.json", text);
  return Tokenizer::load(directory.path());
}

TEST(TokenizerHostile, BadVocabularyIsRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "tokenizer.json").string();
  for (const char* vocab :
       {R"({"a": 1})", R"({"a": 0, "b": 0})", R"({"a": 0, "b": 2})", R"({"a": -1})",
        R"({"a": 0.5})", R"({"a": "0"})", R"({"a": null})", R"({"a": true})", R"({"": 0})",
        R"({"ab": 0})", R"({"a": 0, "a": 1})", R"({"a": 18446744073709551615})", R"("a")", "1",
        "null", "[0, 1]", R"(["a", "b"])", R"({"\ud800": 0})"}) {
    const std::string text =
        fmt::format(R"({{"model": {{"type": "BPE", "vocab": {}, "merges": []}}}})", vocab);
    EXPECT_ERROR(load_text(directory, text), file) << vocab;
  }
}

TEST(TokenizerHostile, BadFileIsRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "tokenizer.json").string();
  EXPECT_ERROR(Tokenizer::load(directory.path()), "cannot open " + file);
  for (const char* text :
       {"", "{", "[]", "null", "1", "\"text\"", "{}", R"({"model": null})", R"({"model": []})",
        R"({"model": {"type": "BPE"}})", R"({"model": {"type": "BPE", "vocab": {"a": 0}}})",
        R"({"model": {"type": 1, "vocab": {"a": 0}, "merges": []}})",
        R"({"model": {"vocab": {"a": 0}, "merges": []}})"}) {
    EXPECT_ERROR(load_text(directory, text), file) << text;
  }
  EXPECT_ERROR(
      load_text(directory, R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})"),
      "pre_tokenizer is null; only ByteLevel where there are merges is supported");
  EXPECT_ERROR(
      load_text(directory, R"({"model": {"type": "WordLevel", "vocab": {"a": 0}, "merges": []}})"),
      "model: type is \"WordLevel\"; only \"BPE\" is supported");
}

TEST(TokenizerHostile, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  Tokenizer(kAlphabet).save(directory.path());
  const std::string whole = read_text(directory / "tokenizer.json");
  std::mt19937_64 random(6);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = damaged(whole, random);
    ASSERT_TRUE(returns_or_throws_error([&] {
      const Tokenizer tokenizer = Tokenizer::parse(text, "tokenizer.json");
      tokenizer.save(directory.path());
      const Tokenizer again = Tokenizer::load(directory.path());
      ASSERT_EQ(again.vocab_size(), tokenizer.vocab_size());
      for (int32_t token = -1; token <= tokenizer.vocab_size(); ++token) {
        ASSERT_EQ(again.decode(token), tokenizer.decode(token));
      }
    })) << text;
  }
}

}  // namespace
}  // namespace gigagpt::formats
