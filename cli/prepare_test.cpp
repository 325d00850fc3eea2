// `gigagpt prepare` by character: what it writes, and that it leaves nothing behind when it fails.
#include "cli/prepare.h"

#include <gtest/gtest.h>

#include <random>

#include "cli/prepare_testing.h"
#include "formats/utf8.h"

namespace gigagpt::cli {
namespace {

TEST(Prepare, ValIsExactlyTheLastPart) {
  const TemporaryDirectory directory;
  const std::string text = "the quick brown fox jumps over the lazy dog \xC3\xA9\xE2\x82\xAC\n";
  const size_t characters = text.size() - 3;  // one of two bytes, one of three
  const std::string input = directory.write("a.txt", text);
  for (const double fraction : {0.0, 0.1, 0.25, 0.9}) {
    run({input}, directory / "out", fraction);
    const std::string train = text_of(directory / "out", "train");
    const std::string val = text_of(directory / "out", "val");
    EXPECT_EQ(train + val, text) << fraction;
    const auto wanted = static_cast<size_t>(static_cast<double>(characters) * (1 - fraction));
    EXPECT_EQ(fs::file_size(directory / "out" / "train.bin"), 2 * wanted) << fraction;
  }
}

TEST(Prepare, WritesADataSetAndNothingElse) {
  const TemporaryDirectory directory;
  const std::string input = directory.write("a.txt", "abcabcabca");
  const std::string printed = run({input}, directory / "new" / "out");
  EXPECT_EQ(names_in(directory / "new"), std::set<std::string>{"out"});
  EXPECT_EQ(names_in(directory / "new" / "out"), kDataset);
  const formats::DatasetMeta meta = formats::read_dataset_meta(directory / "new" / "out");
  EXPECT_EQ(meta.vocab_size, 3);
  EXPECT_EQ(meta.token_bytes, 2);
  EXPECT_NE(printed.find("9 training and 1 validation tokens; set vocab_size: 3"),
            std::string::npos)
      << printed;
}

TEST(Prepare, JoinsTheFilesInOrder) {
  const TemporaryDirectory directory;
  const std::string first = directory.write("z.txt", "first ");
  const std::string empty = directory.write("empty.txt", "");
  const std::string second = directory.write("a.txt", "second");
  run({first, empty, second}, directory / "out", 0.5);
  EXPECT_EQ(text_of(directory / "out", "train"), "first ");
  EXPECT_EQ(text_of(directory / "out", "val"), "second");
}

TEST(Prepare, AlphabetIsSorted) {
  const TemporaryDirectory directory;
  run({directory.write("a.txt", "ba\xE2\x82\xAC\nA")}, directory / "out");
  const auto tokenizer = formats::Tokenizer::load(directory / "out");
  EXPECT_EQ(tokenizer.encode("\nAab\xE2\x82\xAC"), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Prepare, SplitsTextLargerThanItsBuffer) {
  const TemporaryDirectory directory;
  std::string text;
  std::mt19937_64 random(12);
  for (int i = 0; i < 1'200'000; ++i) text += static_cast<char>('a' + random() % 26);
  run({directory.write("a.txt", text)}, directory / "out", 0.01);
  EXPECT_TRUE(text_of(directory / "out", "train") + text_of(directory / "out", "val") == text);
}

TEST(Prepare, MoreThan65536CharactersTakeFourBytes) {
  const TemporaryDirectory directory;
  std::string text;
  for (char32_t c = 0; c < 65537 + 0x800; ++c) {
    if (c < 0xD800 || c >= 0xE000) formats::append_utf8(text, c);
  }
  run({directory.write("a.txt", text)}, directory / "out");
  const formats::DatasetMeta meta = formats::read_dataset_meta(directory / "out");
  EXPECT_EQ(meta.vocab_size, 65537);
  EXPECT_EQ(meta.token_bytes, 4);
  EXPECT_TRUE(text_of(directory / "out", "train") + text_of(directory / "out", "val") == text);
}

TEST(Prepare, BadInputLeavesNothingBehind) {
  const TemporaryDirectory directory;
  const std::string good = directory.write("good.txt", "good");
  const std::string empty = directory.write("empty.txt", "");
  const std::string latin1 = directory.write("latin1.txt", "caf\xE9 noir");
  const std::string cut = directory.write("cut.txt", "ab\xE2\x82");
  const std::string missing = (directory / "missing.txt").string();
  const std::vector<std::pair<Strings, std::string>> cases = {
      {{latin1}, latin1 + ": byte 3 is not valid UTF-8"},
      {{good, cut}, cut + ": byte 2 is not valid UTF-8"},
      {{good, missing}, "cannot open " + missing},
      {{empty}, empty + " is empty"},
      {{empty, empty}, "empty"},
      {{"/dev/null"}, "/dev/null is neither a file nor a folder"}};
  const auto before = names_in(directory.path());
  for (const auto& bad : cases) {
    EXPECT_ERROR(run(bad.first, directory / "out"), bad.second);
    EXPECT_EQ(names_in(directory.path()), before) << bad.second;
  }
}

TEST(Prepare, BadInputKeepsTheOldDataSet) {
  const TemporaryDirectory directory;
  run({directory.write("good.txt", "good text")}, directory / "out", 0);
  const std::string bad = directory.write("bad.txt", "\xFF");
  EXPECT_ERROR(run({bad}, directory / "out"), "not valid UTF-8");
  EXPECT_EQ(names_in(directory / "out"), kDataset);
  EXPECT_EQ(text_of(directory / "out", "train"), "good text");
}

TEST(Prepare, ReplacesAnOldDataSet) {
  const TemporaryDirectory directory;
  run({directory.write("a.txt", "old old old")}, directory / "out");
  for (const char* out : {"out", "out/"}) {
    run({directory.write("b.txt", std::string("new ") + out)}, directory / out, 0);
    EXPECT_EQ(text_of(directory / "out", "train"), std::string("new ") + out);
    EXPECT_EQ(names_in(directory / "out"), kDataset);
    EXPECT_EQ(names_in(directory.path()), (std::set<std::string>{"a.txt", "b.txt", "out"}));
  }
}

TEST(Prepare, RefusesAFolderWithOtherThings) {
  const TemporaryDirectory directory;
  const std::string input = directory.write("a.txt", "text");
  directory.write("mine/thesis.tex", "irreplaceable");
  directory.write("mine/train.bin", "");
  EXPECT_ERROR(run({input}, directory / "mine"), "mine holds thesis.tex, which is not part of a");
  EXPECT_EQ(read_text(directory / "mine" / "thesis.tex"), "irreplaceable");
  EXPECT_ERROR(run({input}, directory.path()), "which is not part of a data set");
  EXPECT_ERROR(run({input}, input), "a.txt is not a folder");
  EXPECT_EQ(read_text(input), "text");
}

TEST(Prepare, InputInsideTheDataSetFolderIsNotLost) {
  const TemporaryDirectory directory;
  const std::string input = directory.write("out/input.txt", "text");
  EXPECT_ERROR(run({input}, directory / "out"), "out holds input.txt");
  EXPECT_EQ(read_text(input), "text");
}

}  // namespace
}  // namespace gigagpt::cli
