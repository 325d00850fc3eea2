// Training of byte pairs: against counting all pairs anew for each merge.
#include "formats/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "base/testing.h"
#include "formats/bpe.h"
#include "formats/gpt2_split.h"

namespace gigagpt::formats {
namespace {

using Strings = std::vector<std::string>;
const auto kQuiet = [](double) {};

// The merges as "left right" in byte-level form.
Strings literal_merges(const Strings& documents, size_t vocab_size) {
  Strings tokens;
  std::map<std::string, size_t> ids;
  const auto id_of = [&](const std::string& text) {
    const auto [found, is_new] = ids.emplace(text, tokens.size());
    if (is_new) tokens.push_back(text);
    return found->second;
  };
  for (const uint8_t byte : bytes_in_token_order())
    id_of(to_byte_level(std::string(1, char(byte))));
  std::vector<std::vector<size_t>> words;
  for (const std::string& text : documents) {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = pre_token_end(text, begin);
      words.emplace_back();
      for (; begin < end; ++begin)
        words.back().push_back(id_of(to_byte_level(text.substr(begin, 1))));
    }
  }
  Strings merges;
  while (tokens.size() + 1 < vocab_size) {
    std::map<std::pair<size_t, size_t>, int64_t> counts;
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    }
    // The first of equals has the lowest ids.
    const auto best = std::max_element(counts.begin(), counts.end(),
                                       [](auto& a, auto& b) { return a.second < b.second; });
    const auto [left, right] = best->first;
    const std::string merge = tokens[left] + " " + tokens[right];
    if (std::find(merges.begin(), merges.end(), merge) == merges.end()) merges.push_back(merge);
    const size_t both = id_of(tokens[left] + tokens[right]);
    for (auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (word[i] != left || word[i + 1] != right) continue;
        word[i] = both;
        word.erase(word.begin() + static_cast<ptrdiff_t>(i) + 1);
      }
    }
  }
  return merges;
}

Tokenizer trained(const Strings& documents, int64_t vocab_size) {
  BpeTrainer trainer;
  for (const std::string& document : documents) trainer.add(document);
  return trainer.train(vocab_size, kQuiet);
}

std::string random_document(std::mt19937_64& random, std::string_view letters) {
  std::string text;
  const size_t size = 50 + random() % 300;
  while (text.size() < size) text.push_back(letters[random() % letters.size()]);
  return text;
}

TEST(BpeTrainer, EqualsCountingAnewForEachMerge) {
  std::mt19937_64 random(1);
  int compared = 0;
  for (int round = 0; round < 60; ++round) {
    // Few letters make overlaps and equal counts, and tokens that two merges give.
    const std::string_view letters =
        std::string_view("aab aabbc  ddd\nefgh").substr(0, 3 + round % 17);
    Strings documents;
    for (int i = 0; i < 3; ++i) documents.push_back(random_document(random, letters));
    const int64_t vocab_size = 257 + int64_t(random() % 60);
    Tokenizer tokenizer = trained({"a"}, 257);
    try {
      tokenizer = trained(documents, vocab_size);
    } catch (const Error&) {
      continue;  // too little text, which is tested below
    }
    ++compared;
    ASSERT_EQ(tokenizer.vocab_size(), vocab_size);
    ASSERT_EQ(tokenizer.merges(), literal_merges(documents, size_t(vocab_size)));
    for (const std::string& text : documents) {
      std::string again;
      for (const int32_t token : tokenizer.encode(text)) again += tokenizer.decode(token);
      ASSERT_EQ(again, text);
    }
  }
  EXPECT_GT(compared, 40);
}

TEST(BpeTrainer, IdsAreGpt2sWay) {
  const Tokenizer tokenizer = trained({"low lower lowest low", " low"}, 260);
  EXPECT_EQ(tokenizer.encode("!"), std::vector<int32_t>{0});
  EXPECT_EQ(tokenizer.encode("\n"), std::vector<int32_t>{198});
  // "l o" and "o w" come five times each, and 'l' has the lower id.
  EXPECT_EQ(tokenizer.merges(), (Strings{"l o", "lo w", "\xC4\xA0 low"}));
  EXPECT_EQ(tokenizer.token_text(258), "\xC4\xA0low");
  EXPECT_EQ(tokenizer.end_of_text(), 259);
  EXPECT_TRUE(tokenizer.is_special(259));
  EXPECT_FALSE(tokenizer.is_character_level());
}

TEST(BpeTrainer, OrderOfDocumentsMakesNoDifference) {
  std::mt19937_64 random(2);
  Strings documents;
  for (int i = 0; i < 20; ++i) documents.push_back(random_document(random, "abcdefgh  "));
  const Strings merges = trained(documents, 320).merges();
  for (int i = 0; i < 5; ++i) {
    std::shuffle(documents.begin(), documents.end(), random);
    ASSERT_EQ(trained(documents, 320).merges(), merges);
  }
}

TEST(BpeTrainer, TooLittleTextIsRefusedWithWhatItGives) {
  EXPECT_ERROR(trained({"abc"}, 300),
               "a vocabulary of 300 tokens is more than this text gives: at most 259");
  EXPECT_EQ(trained({"abc"}, 259).vocab_size(), 259);
  EXPECT_EQ(trained({}, 257).vocab_size(), 257);
  EXPECT_ERROR(trained({}, 258), "at most 257");
}

TEST(BpeTrainer, RareWordsAreForgottenToStayWithinMemory) {
  BpeTrainer trainer(1 << 16);
  for (int i = 0; i < 20000; ++i)
    trainer.add(" common" + std::string(1 + i % 3, 'x') + " n" +
                std::string(1, char('a' + i % 26)) + std::to_string(i));
  EXPECT_GT(trainer.forgotten(), 10000);
  const Tokenizer tokenizer = trainer.train(270, kQuiet);
  EXPECT_EQ(tokenizer.encode(" commonx").size(), 1U);
}

// Looking at the whole word for each merge would take minutes.
TEST(BpeTrainer, LongWordsTakeNoLonger) {
  std::mt19937_64 random(3);
  std::string word(1 << 19, 'a');
  for (char& c : word) c = "acgt"[random() % 4];
  EXPECT_EQ(trained({word, std::string(1 << 19, 'z')}, 2000).vocab_size(), 2000);
}

TEST(BpeTrainer, ProgressOnlyRises) {
  std::mt19937_64 random(4);
  BpeTrainer trainer;
  for (int i = 0; i < 10; ++i) trainer.add(random_document(random, "abcdefgh "));
  double last = 0;
  int calls = 0;
  trainer.train(300, [&](double share) {
    EXPECT_GE(share, last);
    EXPECT_LE(share, 1);
    last = share;
    ++calls;
  });
  EXPECT_GT(calls, 40);
}

}  // namespace
}  // namespace gigagpt::formats
