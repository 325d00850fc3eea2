// Data sets: the meta file, token files of both widths, and errors that say what to do.
#include "formats/dataset.h"

#include <gtest/gtest.h>

#include "base/testing.h"

namespace gigagpt::formats {
namespace {

template <class T>
std::string token_bytes(const std::vector<T>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(T)};
}

std::vector<int64_t> all_tokens(const TokenFile& file, int64_t vocab_size) {
  std::vector<int64_t> tokens(static_cast<size_t>(file.size()));
  file.copy(0, file.size(), vocab_size, tokens.data());
  return tokens;
}

// Makes a directory the current one for as long as it lives.
class WorkingDirectory {
 public:
  explicit WorkingDirectory(const Path& path) { std::filesystem::current_path(path); }
  ~WorkingDirectory() { std::filesystem::current_path(before_); }

 private:
  Path before_ = std::filesystem::current_path();
};

TEST(DatasetMeta, MissingFileMeansGpt2Tokens) {
  const TemporaryDirectory directory;
  const DatasetMeta meta = read_dataset_meta(directory.path());
  EXPECT_EQ(meta.vocab_size, 50257);
  EXPECT_EQ(meta.token_bytes, 2);
}

TEST(DatasetMeta, WrittenReadsBack) {
  const TemporaryDirectory directory;
  for (const DatasetMeta meta :
       {DatasetMeta{63, 2}, DatasetMeta{65536, 2}, DatasetMeta{65537, 4}}) {
    write_dataset_meta(directory.path(), meta);
    const DatasetMeta read = read_dataset_meta(directory.path());
    EXPECT_EQ(read.vocab_size, meta.vocab_size);
    EXPECT_EQ(read.token_bytes, meta.token_bytes);
  }
}

TEST(DatasetMeta, NonsenseIsRefused) {
  const TemporaryDirectory directory;
  const std::string file = (directory / "meta.json").string();
  for (const char* text : {"",
                           "{",
                           "[]",
                           "null",
                           "63",
                           "{}",
                           R"({"vocab_size": 63})",
                           R"({"dtype": "uint16"})",
                           R"({"vocab_size": "63", "dtype": "uint16"})",
                           R"({"vocab_size": 63, "dtype": 16})",
                           R"({"vocab_size": null, "dtype": "uint16"})",
                           R"({"vocab_size": 63, "dtype": "int64"})",
                           R"({"vocab_size": 0, "dtype": "uint16"})",
                           R"({"vocab_size": -1, "dtype": "uint32"})",
                           R"({"vocab_size": 65537, "dtype": "uint16"})",
                           R"({"vocab_size": true, "dtype": "uint16"})",
                           R"({"vocab_size": 18446744073709551615, "dtype": "uint32"})",
                           R"({"vocab_size": 4294967297, "dtype": "uint32"})",
                           R"({"vocab_size": 63.5, "dtype": "uint16"})",
                           R"({"vocab_size": 63, "vocab_size": 64, "dtype": "uint16"})",
                           R"([{"vocab_size": 63}])"}) {
    directory.write("meta.json", text);
    EXPECT_ERROR(read_dataset_meta(directory.path()), file) << text;
  }
}

// Printing it for a message would take a stack as deep.
TEST(DatasetMeta, DeepNestingIsRefusedInOneShortLine) {
  const TemporaryDirectory directory;
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  directory.write("meta.json", fmt::format(R"({{"vocab_size": {}, "dtype": "uint16"}})", deep));
  EXPECT_ERROR(read_dataset_meta(directory.path()), "meta.json: nested more than 50 deep");
  const std::string text = fmt::format(R"({{"vocab_size": "{}"}})", std::string(1'000'000, 'x'));
  for (const std::string& bad : {text, text.substr(0, 900'000)}) {
    directory.write("meta.json", bad);
    try {
      read_dataset_meta(directory.path());
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_LT(std::string_view(error.what()).size(), 400U);
    }
  }
}

TEST(DatasetMeta, DamagedFilesNeverCrash) {
  const TemporaryDirectory directory;
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = damaged(R"({"vocab_size": 63, "dtype": "uint16"})", random);
    directory.write("meta.json", text);
    ASSERT_TRUE(returns_or_throws_error([&] {
      const DatasetMeta meta = read_dataset_meta(directory.path());
      EXPECT_GE(meta.vocab_size, 1);
      EXPECT_TRUE(meta.token_bytes == 2 || meta.token_bytes == 4);
      write_dataset_meta(directory.path(), meta);
      const DatasetMeta again = read_dataset_meta(directory.path());
      EXPECT_EQ(again.vocab_size, meta.vocab_size);
      EXPECT_EQ(again.token_bytes, meta.token_bytes);
    })) << text;
  }
}

TEST(TokenFile, ReadsBothWidths) {
  const TemporaryDirectory directory;
  const Path narrow = directory.write("narrow", token_bytes<uint16_t>({1, 0, 65535, 50256}));
  const Path wide = directory.write("wide", token_bytes<uint32_t>({1, 0, 65536, 4000000000}));
  EXPECT_EQ(all_tokens(TokenFile(narrow, {65536, 2}), 65536),
            (std::vector<int64_t>{1, 0, 65535, 50256}));
  EXPECT_EQ(all_tokens(TokenFile(wide, {4000000001, 4}), 4000000001),
            (std::vector<int64_t>{1, 0, 65536, 4000000000}));
}

TEST(TokenFile, CopiesAnyRange) {
  const TemporaryDirectory directory;
  const TokenFile file(directory.write("x", token_bytes<uint16_t>({10, 11, 12, 13, 14})), {63, 2});
  for (int64_t first = 0; first <= 5; ++first) {
    for (int64_t count = 0; first + count <= 5; ++count) {
      std::vector<int64_t> out(static_cast<size_t>(count) + 1, -7);
      file.copy(first, count, 63, out.data());
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 10 + first + i);
      EXPECT_EQ(out.back(), -7);  // nothing beyond the range
    }
  }
}

TEST(TokenFile, EmptyFileHasNoTokens) {
  const TemporaryDirectory directory;
  const TokenFile file(directory.write("x", ""), {63, 2});
  EXPECT_EQ(file.size(), 0);
  file.copy(0, 0, 63, nullptr);
}

TEST(TokenFile, OddSizeIsRefused) {
  const TemporaryDirectory directory;
  const Path path = directory.write("x", "12345");
  EXPECT_ERROR(TokenFile(path, {63, 2}), path.string() + ": 5 bytes are not a whole number of 2-");
  const Path six = directory.write("y", "123456");
  EXPECT_ERROR(TokenFile(six, {63, 4}), "6 bytes are not a whole number of 4-byte tokens");
}

TEST(TokenFile, TokenOutsideTheVocabularyNamesFileAndPosition) {
  const TemporaryDirectory directory;
  const Path path = directory.write("train.bin", token_bytes<uint16_t>({0, 1, 2, 63, 62}));
  const TokenFile file(path, {64, 2});
  std::array<int64_t, 5> out{};
  EXPECT_ERROR(file.copy(1, 4, 63, out.data()),
               path.string() + ": token 63 at position 3 is not below vocab_size 63");
  file.copy(0, 3, 63, out.data());
  file.copy(4, 1, 63, out.data());
  file.copy(0, 5, 64, out.data());
  const Path wide = directory.write("wide", token_bytes<uint32_t>({0xFFFFFFFF}));
  EXPECT_ERROR(TokenFile(wide, {64, 4}).copy(0, 1, 64, out.data()), "token 4294967295");
}

TEST(TokenFileDeathTest, RangeBeyondTheFileIsAnInternalError) {
  const TemporaryDirectory directory;
  const TokenFile file(directory.write("x", token_bytes<uint16_t>({1, 2})), {63, 2});
  std::array<int64_t, 4> out{};
  EXPECT_DEATH(file.copy(1, 2, 63, out.data()), "internal error");
  EXPECT_DEATH(file.copy(-1, 1, 63, out.data()), "internal error");
}

TEST(FindDataset, TakesAPathOrANameUnderData) {
  const TemporaryDirectory directory;
  directory.write("data/kjv/train.bin", "");
  directory.write("here/train.bin", "");
  const WorkingDirectory inside(directory.path());
  EXPECT_EQ(find_dataset("kjv"), Path("data/kjv"));
  EXPECT_EQ(find_dataset("here"), Path("here"));
  EXPECT_EQ(find_dataset((directory / "here").string()), directory / "here");
  EXPECT_ERROR(find_dataset("nowhere"), "no folder nowhere or data/nowhere");
  EXPECT_ERROR(find_dataset("here/train.bin"), "no folder here/train.bin");  // a file
}

TEST(OpenSplit, ChecksVocabularyAndSize) {
  const TemporaryDirectory directory;
  const std::string folder = directory.path().string();
  directory.write("train.bin", token_bytes<uint32_t>({5, 6, 7}));
  write_dataset_meta(directory.path(), {100, 4});
  EXPECT_EQ(all_tokens(open_split(folder, "train", 100, 3), 100), (std::vector<int64_t>{5, 6, 7}));
  EXPECT_ERROR(open_split(folder, "train", 99, 3), "set vocab_size: 100");
  EXPECT_ERROR(open_split(folder, "train", 100, 4), "train.bin holds 3 tokens, but at least 4");
  EXPECT_ERROR(open_split(folder, "val", 100, 1), "cannot open " + folder + "/val.bin");
}

TEST(OpenSplit, FolderWithoutMetaNeedsTheGpt2Vocabulary) {
  const TemporaryDirectory directory;
  const std::string folder = directory.path().string();
  directory.write("train.bin", token_bytes<uint16_t>({50256, 6, 7}));
  EXPECT_EQ(open_split(folder, "train", 50257, 3).size(), 3);
  EXPECT_EQ(open_split(folder, "train", 63, 3).size(), 3) << "nothing says it is GPT-2's";
}

}  // namespace
}  // namespace gigagpt::formats
