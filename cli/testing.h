// For tests only: what `inspect` says.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <regex>
#include <string>

#include "base/testing.h"
#include "cli/inspect.h"

namespace gigagpt::cli {

struct Outcome {
  std::string text;   // standard output
  std::string error;  // "" if all is well
};

inline Outcome look(const Path& path) {
  Outcome outcome;
  testing::internal::CaptureStdout();
  try {
    inspect(path);
  } catch (const Error& error) {
    outcome.error = error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
  }
  std::fflush(stdout);
  outcome.text = testing::internal::GetCapturedStdout();
  EXPECT_EQ(outcome.error.find('\n'), std::string::npos) << outcome.error;
  return outcome;
}

inline testing::AssertionResult has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "no '" << part << "' in:\n" << text;
}

// Whether a line begins with these words, whatever the spaces between them.
inline testing::AssertionResult has_line(const std::string& text, const std::string& words) {
  const std::string plain = "\n" + std::regex_replace(text, std::regex(" +"), " ");
  return has(plain, "\n " + words);
}

inline void flip_bit(const Path& path, uint64_t byte) {
  std::string text = read_text(path);
  text.at(byte) = char(text.at(byte) ^ 4);
  File::create(path).write(text);
}

}  // namespace gigagpt::cli
