// `gigagpt tokenizer` on real files.
#include "cli/tokenizer.h"

#include <gtest/gtest.h>

#include "base/testing.h"
#include "formats/tokenizer.h"

namespace gigagpt::cli {
namespace {

using Action = TokenizerArguments::Action;

std::string run(const TokenizerArguments& arguments) {
  testing::internal::CaptureStdout();
  try {
    run_tokenizer(arguments);
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  std::fflush(stdout);
  return testing::internal::GetCapturedStdout();
}

class TokenizerCommand : public testing::Test {
 protected:
  TokenizerCommand() {
    train_.action = Action::kTrain;
    train_.inputs = {folder_.write("a.txt", "low lower lowest low low\n").string()};
    train_.out = (folder_ / "out").string();
    train_.vocab_size = 260;
    use_.tokenizer = train_.out;
  }

  TemporaryDirectory folder_;
  TokenizerArguments train_{}, use_{};
};

TEST_F(TokenizerCommand, TrainsEncodesAndDecodes) {
  EXPECT_EQ(run(train_), train_.out + "/tokenizer.json: 260 tokens, from 2.5e-05 MB of text\n");
  EXPECT_EQ(names_in(train_.out), std::set<std::string>{"tokenizer.json"});
  use_.action = Action::kEncode;
  use_.inputs = {folder_.write("b.txt", "low low<|endoftext|>").string(),
                 folder_.write("empty.txt", "").string(), folder_.write("c.txt", "!\n").string()};
  use_.special = true;
  EXPECT_EQ(run(use_), "257 258 259\n\n0 198\n");
  use_.action = Action::kDecode;
  use_.inputs = {folder_.write("ids", " 257,258\n259 0\n").string()};
  EXPECT_EQ(run(use_), "low low<|endoftext|>!");
  run(train_);  // replaces its own
}

TEST_F(TokenizerCommand, TextLargerThanABlockIsTheSame) {
  run(train_);
  std::string text;
  while (text.size() < 3 << 20) text += "low  lower, 12lowest'll \xC3\xA9\n\n";
  use_.action = Action::kEncode;
  use_.inputs = {folder_.write("b.txt", text).string()};
  const auto tokens = formats::Tokenizer::load(train_.out).encode(text);
  EXPECT_EQ(run(use_), fmt::format("{}\n", fmt::join(tokens, " ")));
}

TEST_F(TokenizerCommand, BadInputIsRefused) {
  use_.action = Action::kDecode;
  EXPECT_ERROR(run(use_), "cannot open " + use_.tokenizer);
  run(train_);
  for (const char* ids : {"1 260", "1 -1", "1 x", "1 99999999999", "1 1.5", "1 0x10"}) {
    use_.inputs = {folder_.write("ids", ids).string()};
    EXPECT_ERROR(run(use_), "at byte 2 is not an id from 0 to 259") << ids;
  }
  use_.inputs = {folder_.path().string()};
  EXPECT_ERROR(run(use_), "is a directory");
}

TEST_F(TokenizerCommand, FailedTrainingLeavesNothingBehind) {
  train_.vocab_size = 5000;
  EXPECT_ERROR(run(train_),
               "--vocab_size: a vocabulary of 5000 tokens is more than this text gives");
  train_.vocab_size = 260;
  train_.inputs = {folder_.write("empty.txt", "").string()};
  EXPECT_ERROR(run(train_), "empty.txt is empty");
  train_.inputs = {(folder_ / "none").string()};
  EXPECT_ERROR(run(train_), "cannot open");
  EXPECT_FALSE(std::filesystem::exists(train_.out));
  train_.inputs = {(folder_ / "a.txt").string()};
  folder_.write("out/meta.json", "{}");
  EXPECT_ERROR(run(train_), "out holds meta.json, which is not part of a tokenizer");
  EXPECT_EQ(names_in(train_.out), std::set<std::string>{"meta.json"});
}

}  // namespace
}  // namespace gigagpt::cli
