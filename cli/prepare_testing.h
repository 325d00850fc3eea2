// For tests only: `gigagpt prepare`, and what it wrote.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/testing.h"
#include "cli/prepare.h"
#include "formats/dataset.h"
#include "formats/tokenizer.h"

namespace gigagpt::cli {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

inline std::string run(const PrepareArguments& arguments) {
  testing::internal::CaptureStdout();
  try {
    prepare(arguments);
  } catch (...) {
    testing::internal::GetCapturedStdout();
    throw;
  }
  std::fflush(stdout);
  return testing::internal::GetCapturedStdout();
}

inline std::string run(Strings inputs, const Path& out, double val_fraction = 0.1) {
  PrepareArguments arguments;
  arguments.inputs = std::move(inputs);
  arguments.out = out.string();
  arguments.val_fraction = val_fraction;
  return run(arguments);
}

using Tokens = std::vector<int32_t>;

inline Tokens tokens_of(const Path& folder, const std::string& split) {
  const int64_t vocab_size = formats::read_dataset_meta(folder).vocab_size;
  const auto file = formats::open_split(folder.string(), split, vocab_size, 0);
  std::vector<int64_t> tokens(static_cast<size_t>(file.size()));
  file.copy(0, file.size(), vocab_size, tokens.data());
  return {tokens.begin(), tokens.end()};
}

// A split as text again.
inline std::string text_of(const Path& folder, const std::string& split) {
  const auto tokenizer = formats::Tokenizer::load(folder);
  std::string text;
  for (const int32_t token : tokens_of(folder, split)) text += tokenizer.decode(token);
  return text;
}

inline const std::set<std::string> kDataset = {"meta.json", "tokenizer.json", "train.bin",
                                               "val.bin"};

}  // namespace gigagpt::cli
