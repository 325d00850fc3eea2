// GPT-2's pre-tokens: known ones, against the regular expression taken literally, and safe cuts.
#include "formats/gpt2_split.h"

#include <gtest/gtest.h>
#include <unicode/uchar.h>

#include <random>
#include <string>
#include <vector>

#include "base/testing.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace {

using Strings = std::vector<std::string>;

Strings split(std::string_view text) {
  Strings parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_token_end(text, begin);
    EXPECT_GT(end, begin);
    EXPECT_LE(end, text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return parts;
}

TEST(Gpt2Split, KnownTexts) {
  const std::vector<Strings> known = {
      {},
      {"Hello", " world", "!"},
      {"Hello", ",", "  ", " World"},
      {"a", "\n", "\n", "b"},
      {"a", "\n\n"},
      {"a", " \n", " b"},
      {"a", "\r", "\n", "b"},
      {"\t", "\t", "x", "\t", " y", " "},
      {" "},
      {"   "},
      {"  ", " 12", "ab", "34"},
      {"don", "'t", " we", "'ll", " I", "'m", " they", "'ve", " you", "'re", " he", "'d", " it",
       "'s"},
      {"DON", "'", "T", " IT", "'", "S"},
      {"'s", "'", "x", " '", "s", " ''", "s", "'ll", "a", "'", "l", " '"},
      {"'", "r", " '", "ve", "'ve", "e"},
      {"!'", "s", " rock", " '", "n", "'", " roll"},
      {"\xE2\x80\x99", "s"},                                           // U+2019
      {"na\xC3\xAFve", " \xCE\xA9\xCE\xBC", "\xD9\xA3\xC2\xBD", "x"},  // U+0663, U+00BD: numbers
      {"e", "\xCC\x81", "e", "\xCC\x81"},                              // U+0301 is no letter
      {"\xE4\xB8\xAD\xE6\x96\x87", "\xEF\xBC\x8C", "\xE3\x80\x87",
       "\xE4\xB8\x80"},                                                            // U+3007: number
      {"\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9", " \xF0\x9F\x98\x80", "a"},  // emoji, ZWJ
      {"\xF0\xA0\x80\x80", "\xF0\x9D\x9F\x99", "a"},  // U+20000, U+1D7D9
  };
  for (const Strings& parts : known) {
    std::string text;
    for (const std::string& part : parts) text += part;
    EXPECT_EQ(split(text), parts);
  }
}

// White_Space, and what engines take for it besides.
TEST(Gpt2Split, Spaces) {
  for (const char32_t c : {0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x2000, 0x200A,
                           0x2028, 0x2029, 0x202F, 0x205F, 0x3000}) {
    std::string space;
    append_utf8(space, c);
    EXPECT_EQ(split("a" + space + space + "!"),
              (c == 0x20 ? Strings{"a", " ", " !"} : Strings{"a", space, space, "!"}))
        << uint32_t(c);
  }
  for (const char32_t c : {0x00, 0x08, 0x0E, 0x1C, 0x1D, 0x1E, 0x1F, 0x7F, 0x84, 0x86, 0x180E,
                           0x200B, 0x2060, 0xFEFF}) {
    std::string symbol;
    append_utf8(symbol, c);
    EXPECT_EQ(split("a " + symbol + "!b"), (Strings{"a", " " + symbol + "!", "b"})) << uint32_t(c);
  }
}

TEST(Gpt2Split, BytesThatAreNotUtf8AreSymbols) {
  EXPECT_EQ(split("a\xFF\xFE!b"), (Strings{"a", "\xFF\xFE!", "b"}));
  EXPECT_EQ(split(" \xE4\xB8"), (Strings{" \xE4\xB8"}));
  EXPECT_EQ(split("\xE4\xB8 \xB8x"), (Strings{"\xE4\xB8", " \xB8", "x"}));
  EXPECT_EQ(split("\xC1\x81\xED\xA0\x80\xF4\x90\x80\x80z"),
            (Strings{"\xC1\x81\xED\xA0\x80\xF4\x90\x80\x80", "z"}));
}

// The alternatives of the pattern, in order, each by trying; over code points.
size_t literal_match(const std::u32string& text, size_t begin) {
  const auto is = [&](size_t i, uint32_t mask) {
    return i < text.size() && (U_GET_GC_MASK(static_cast<UChar32>(text[i])) & mask) != 0;
  };
  const auto space = [&](size_t i) {
    return i < text.size() && u_hasBinaryProperty(static_cast<UChar32>(text[i]), UCHAR_WHITE_SPACE);
  };
  for (const std::u32string_view part : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (std::u32string_view(text).substr(begin).starts_with(part)) return begin + part.size();
  }
  for (int kind = 0; kind < 3; ++kind) {
    size_t end = begin + (text[begin] == U' ' ? 1 : 0);
    const size_t first = end;
    const auto matches = [&](size_t i) {
      if (kind == 0) return is(i, U_GC_L_MASK);
      if (kind == 1) return is(i, U_GC_N_MASK);
      return i < text.size() && !space(i) && !is(i, U_GC_L_MASK | U_GC_N_MASK);
    };
    while (matches(end)) ++end;
    if (end > first) return end;
  }
  size_t end = begin;
  while (space(end)) ++end;
  for (size_t i = end; i > begin; --i) {
    if (i == text.size() || space(i)) return i;
  }
  return end;
}

const std::u32string kPieces =
    U"      \n\n\t\r''''stmdrevl lvSTaZ\u00E9\u0436\u4E2D\u3042\u05D0\u0627"
    U"019\u0663\u00BD\u2167!.,-_\u0301\u200D\u200B\uFEFF\u0085\u00A0\u2003\u3000\u2028\U0001F600"
    U"\U00020000\U0001D7D9\u02B0\u01C5";

std::u32string random_text(std::mt19937_64& random) {
  std::u32string text(random() % 40, U' ');
  for (char32_t& c : text) {
    c = random() % 20 > 0 ? kPieces[random() % kPieces.size()] : char32_t(random() % 0x3000);
  }
  return text;
}

std::string encoded(std::u32string_view text) {
  std::string bytes;
  for (const char32_t c : text) append_utf8(bytes, c);
  return bytes;
}

TEST(Gpt2Split, EqualsThePatternTakenLiterally) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::u32string text = random_text(random);
    Strings expected;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = literal_match(text, begin);
      expected.push_back(encoded(std::u32string_view(text).substr(begin, end - begin)));
      begin = end;
    }
    ASSERT_EQ(split(encoded(text)), expected);
  }
}

TEST(Gpt2Split, EveryCharacterIsOfItsKind) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::u32string text = {U'a', c, U' ', c, U'1'};
    size_t begin = 0, byte = 0;
    const std::string bytes = encoded(text);
    while (begin < text.size()) {
      const size_t end = literal_match(text, begin);
      byte += encoded(std::u32string_view(text).substr(begin, end - begin)).size();
      ASSERT_EQ(
          pre_token_end(
              bytes, byte - encoded(std::u32string_view(text).substr(begin, end - begin)).size()),
          byte)
          << uint32_t(c);
      begin = end;
    }
  }
}

TEST(Gpt2Split, SafeCutsKeepThePreTokens) {
  std::mt19937_64 random(2);
  int64_t cuts = 0, possible = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = encoded(random_text(random));
    if (i % 4 == 0) {
      for (char& c : text) {
        if (random() % 4 == 0) c = static_cast<char>(random());
      }
    }
    const bool before_space = i % 3 == 0;
    const size_t from = random() % (text.size() + 2);
    const size_t cut = safe_pre_token_cut(text, from, before_space);
    if (cut >= text.size()) {
      ASSERT_EQ(cut, text.size());
      continue;
    }
    ASSERT_GT(cut, 0U);
    ASSERT_GE(cut, from);
    ASSERT_TRUE(!before_space || text[cut] == ' ');
    Strings parts = split(std::string_view(text).substr(0, cut));
    const Strings rest = split(std::string_view(text).substr(cut));
    parts.insert(parts.end(), rest.begin(), rest.end());
    ASSERT_EQ(parts, split(text)) << testing::PrintToString(text) << " at " << cut;
    ++cuts;
    possible += static_cast<int64_t>(text.size());
  }
  EXPECT_GT(cuts, 10000);
  EXPECT_GT(possible, cuts);
}

TEST(Gpt2Split, CutsAreFoundSoon) {
  EXPECT_EQ(safe_pre_token_cut("ab cd", 0, false), 2U);
  EXPECT_EQ(safe_pre_token_cut("ab cd", 2, false), 2U);
  EXPECT_EQ(safe_pre_token_cut("ab cd", 3, false), 5U);
  EXPECT_EQ(safe_pre_token_cut("ab\ncd", 1, false), 2U);
  EXPECT_EQ(safe_pre_token_cut("ab\ncd", 1, true), 5U);
  EXPECT_EQ(safe_pre_token_cut("ab1c", 1, false), 2U);
  EXPECT_EQ(safe_pre_token_cut("", 0, false), 0U);
  EXPECT_EQ(safe_pre_token_cut("ab", 7, false), 2U);
  EXPECT_EQ(safe_pre_token_cut("a''s b", 2, false), 4U);  // not between an apostrophe and a letter
}

}  // namespace
}  // namespace gigagpt::formats
