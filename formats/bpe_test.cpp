// Byte pairs: against merging taken literally, round trips, threads, and long words.
#include "formats/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/testing.h"
#include "formats/gpt2_split.h"
#include "formats/tokenizer.h"
#include "formats/utf8.h"

namespace gigagpt::formats {
namespace {

using Tokens = std::vector<int32_t>;

// All bytes, random merges of what is there, and <|endoftext|>.
BpeVocabulary random_vocabulary(std::mt19937_64& random, size_t num_merges, bool few_letters) {
  BpeVocabulary vocabulary;
  for (const uint8_t byte : bytes_in_token_order()) {
    vocabulary.tokens.push_back(to_byte_level(std::string(1, static_cast<char>(byte))));
  }
  const std::string letters = " abcdefgh\xE4\xB8\xAD";
  const auto some_token = [&] {
    const size_t size = vocabulary.tokens.size();
    if (size > 256 && random() % 2) return static_cast<int32_t>(256 + random() % (size - 256));
    const size_t byte =
        few_letters ? static_cast<uint8_t>(letters[random() % letters.size()]) : random() % 256;
    const auto order = bytes_in_token_order();
    return static_cast<int32_t>(std::find(order.begin(), order.end(), byte) - order.begin());
  };
  std::map<std::string, int32_t> ids;
  for (const std::string& text : vocabulary.tokens) ids[text] = static_cast<int32_t>(ids.size());
  ids.clear();
  for (size_t i = 0; i < 256; ++i) ids[vocabulary.tokens[i]] = static_cast<int32_t>(i);
  std::set<std::pair<int32_t, int32_t>> pairs;
  while (vocabulary.merges.size() < num_merges) {
    const int32_t left = some_token(), right = some_token();
    if (!pairs.insert({left, right}).second) continue;
    const std::string text = vocabulary.tokens[size_t(left)] + vocabulary.tokens[size_t(right)];
    const auto [found, is_new] = ids.emplace(text, static_cast<int32_t>(vocabulary.tokens.size()));
    if (is_new) vocabulary.tokens.push_back(text);
    vocabulary.merges.push_back({left, right, found->second});
  }
  // Any order of merges is to be followed.
  if (random() % 2) std::shuffle(vocabulary.merges.begin(), vocabulary.merges.end(), random);
  vocabulary.added.push_back({static_cast<int32_t>(vocabulary.tokens.size()), true, false});
  vocabulary.tokens.push_back(std::string(kEndOfText));
  return vocabulary;
}

// Each pre-token a list of texts, of which the pair of the lowest rank is joined, again and again.
Tokens literal_encode(const BpeVocabulary& vocabulary, const std::string& text) {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const auto& merge = vocabulary.merges[i];
    ranks[{vocabulary.tokens[size_t(merge.left)], vocabulary.tokens[size_t(merge.right)]}] = i;
  }
  std::map<std::string, int32_t> ids;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) ids[vocabulary.tokens[i]] = int32_t(i);
  Tokens tokens;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_token_end(text, begin);
    std::vector<std::string> parts;
    for (; begin < end; ++begin) parts.push_back(to_byte_level(text.substr(begin, 1)));
    while (true) {
      size_t best = SIZE_MAX, place = 0;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks.find({parts[i], parts[i + 1]});
        if (found == ranks.end() || found->second >= best) continue;
        best = found->second;
        place = i;
      }
      if (best == SIZE_MAX) break;
      parts[place] += parts[place + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(place) + 1);
    }
    for (const std::string& part : parts) tokens.push_back(ids.at(part));
  }
  return tokens;
}

std::string random_text(std::mt19937_64& random, int kind) {
  std::string text;
  const size_t count = random() % (kind == 3 ? 400 : 60);
  while (text.size() < count) {
    if (kind == 0) text.push_back(static_cast<char>(random()));
    if (kind == 1) append_utf8(text, char32_t(random() % (random() % 2 ? 0x80 : 0xD800)));
    if (kind == 2) text.push_back(" abcdefgh"[random() % 9]);
    if (kind == 3) text.push_back("ab"[random() % 2]);  // one long word
  }
  return text;
}

Tokens encode(const Bpe& bpe, std::string_view text) {
  Tokens tokens;
  bpe.encode(text, tokens);
  return tokens;
}

std::string decode(const Bpe& bpe, const Tokens& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += bpe.bytes_of(token);
  return text;
}

TEST(Bpe, ByteLevelFormIsGpt2s) {
  EXPECT_EQ(to_byte_level(" a\n!~"),
            "\xC4\xA0"
            "a"
            "\xC4\x8A"
            "!~");  // U+0120, U+010A
  EXPECT_EQ(to_byte_level(std::string(1, '\0')), "\xC4\x80");
  EXPECT_EQ(to_byte_level("\x7F\xA0\xA1\xAD\xFF"), "\xC4\xA1\xC5\x82\xC2\xA1\xC5\x83\xC3\xBF");
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  EXPECT_EQ(from_byte_level(to_byte_level(bytes)), bytes);
  EXPECT_EQ(from_byte_level(" "), std::nullopt);
  EXPECT_EQ(from_byte_level("\xC5\x84"), std::nullopt);  // U+0144
  const auto order = bytes_in_token_order();
  EXPECT_EQ(order[0], '!');
  EXPECT_EQ(order[188], 0);
  EXPECT_EQ(order[220], ' ');
  EXPECT_EQ(order[198], '\n');
  EXPECT_EQ(order[255], 0xAD);
}

TEST(Bpe, EqualsMergingTakenLiterally) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 40; ++round) {
    const BpeVocabulary vocabulary = random_vocabulary(random, 20 + random() % 400, round % 4 > 0);
    const Bpe bpe(vocabulary);
    for (int i = 0; i < 60; ++i) {
      const std::string text = random_text(random, i % 4);
      const Tokens tokens = encode(bpe, text);
      ASSERT_EQ(tokens, literal_encode(vocabulary, text)) << testing::PrintToString(text);
      ASSERT_EQ(encode(bpe, text), tokens);  // from the cache
      ASSERT_EQ(decode(bpe, tokens), text);
    }
  }
}

TEST(Bpe, VocabulariesDoNotMixInAThread) {
  std::mt19937_64 random(2);
  const BpeVocabulary one = random_vocabulary(random, 100, true);
  const BpeVocabulary two = random_vocabulary(random, 100, true);
  const Bpe first(one), second(two);
  for (int i = 0; i < 50; ++i) {
    const std::string text = random_text(random, 2);
    ASSERT_EQ(encode(first, text), literal_encode(one, text));
    ASSERT_EQ(encode(second, text), literal_encode(two, text));
  }
}

TEST(Bpe, ThreadsEncodeTheSame) {
  std::mt19937_64 random(3);
  const Bpe bpe(random_vocabulary(random, 300, true));
  std::vector<std::string> texts(200);
  for (std::string& text : texts) text = random_text(random, 2);
  std::vector<Tokens> expected;
  for (const std::string& text : texts) expected.push_back(encode(bpe, text));
  std::array<int, 4> wrong{};
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) count += encode(bpe, texts[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

// Quadratic time would take minutes.
TEST(Bpe, LongWordsTakeNoLonger) {
  std::mt19937_64 random(4);
  BpeVocabulary vocabulary = random_vocabulary(random, 0, false);
  const auto byte_token = [&](char c) {
    const auto order = bytes_in_token_order();
    return int32_t(std::find(order.begin(), order.end(), uint8_t(c)) - order.begin());
  };
  for (const char c : {'a', ' '}) {
    int32_t token = byte_token(c);
    for (int i = 0; i < 5; ++i) {  // 2, 4, .. 32 of them
      const auto both = static_cast<int32_t>(vocabulary.tokens.size());
      const std::string half = vocabulary.tokens[size_t(token)];
      vocabulary.tokens.push_back(half + half);
      vocabulary.merges.push_back({token, token, both});
      token = both;
    }
  }
  const Bpe bpe(vocabulary);
  for (const char c : {'a', ' ', '!'}) {
    const std::string text(1 << 20, c);
    const Tokens tokens = encode(bpe, text);
    EXPECT_EQ(tokens.size(), c == '!' ? text.size() : text.size() / 32);
    EXPECT_EQ(decode(bpe, tokens), text);
  }
}

TEST(Bpe, AddedTokensAreFoundOnlyWhenAsked) {
  std::mt19937_64 random(5);
  BpeVocabulary vocabulary = random_vocabulary(random, 0, false);
  const auto add = [&](const char* text, bool special, bool normalized) {
    vocabulary.added.push_back({int32_t(vocabulary.tokens.size()), special, normalized});
    vocabulary.tokens.push_back(text);
  };
  const int32_t end = vocabulary.added[0].id;
  add("<a>", false, true);
  add("<a><b>", false, true);
  add("b><|end", false, true);  // never: <|endoftext|> is looked for first
  const Bpe bpe(vocabulary);
  const auto with_added = [&](std::string_view text) {
    Tokens tokens;
    bpe.encode_with_added(text, tokens);
    return tokens;
  };
  const int32_t x = encode(bpe, "x")[0];
  EXPECT_EQ(with_added("x<|endoftext|>x"), (Tokens{x, end, x}));
  EXPECT_EQ(with_added("<|endoftext|><|endoftext|>"), (Tokens{end, end}));
  EXPECT_EQ(with_added("<a>x<a><b><a>"), (Tokens{end + 1, x, end + 2, end + 1}));
  EXPECT_EQ(with_added("xb><|endoftext|>").back(), end);
  EXPECT_EQ(with_added(""), Tokens{});
  EXPECT_EQ(with_added("<|endoftext|"), encode(bpe, "<|endoftext|"));
  EXPECT_EQ(encode(bpe, "<|endoftext|>").size(), kEndOfText.size());
  EXPECT_EQ(bpe.bytes_of(end), kEndOfText);
}

TEST(Bpe, PrefixSpace) {
  std::mt19937_64 random(6);
  BpeVocabulary vocabulary = random_vocabulary(random, 0, false);
  vocabulary.add_prefix_space = true;
  const Bpe bpe(vocabulary);
  EXPECT_EQ(decode(bpe, encode(bpe, "ab c")), " ab c");
  EXPECT_EQ(decode(bpe, encode(bpe, " ab c")), " ab c");
  EXPECT_EQ(decode(bpe, encode(bpe, "\nab")), " \nab");
  EXPECT_EQ(encode(bpe, ""), Tokens{});
  EXPECT_EQ(bpe.safe_cut("ab1 c", 1), 3U);
}

TEST(Bpe, CutTextEncodesTheSame) {
  std::mt19937_64 random(7);
  for (const bool prefix : {false, true}) {
    BpeVocabulary vocabulary = random_vocabulary(random, 300, true);
    vocabulary.add_prefix_space = prefix;
    const Tokenizer tokenizer{Bpe(vocabulary)};
    for (int i = 0; i < 2000; ++i) {
      const std::string text = random_text(random, i % 3);
      const size_t cut = tokenizer.safe_cut(text, random() % (text.size() + 1));
      Tokens tokens = tokenizer.encode(std::string_view(text).substr(0, cut));
      const Tokens rest = tokenizer.encode(std::string_view(text).substr(cut));
      tokens.insert(tokens.end(), rest.begin(), rest.end());
      ASSERT_EQ(tokens, tokenizer.encode(text)) << testing::PrintToString(text) << " at " << cut;
    }
  }
}

}  // namespace
}  // namespace gigagpt::formats
