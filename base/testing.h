// For tests only: a check for errors, and damaged copies of files.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/temporary_directory.h"

// Passes if the statement throws gigagpt::Error with a message that contains the text.
#define EXPECT_ERROR(statement, text) EXPECT_TRUE(::gigagpt::throws_error([&] { statement; }, text))

namespace gigagpt {

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Of what lies in a folder.
inline std::set<std::string> names_in(const Path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.insert(entry.path().filename());
  }
  return names;
}

template <class Action>
testing::AssertionResult throws_error(Action action, std::string_view text) {
  try {
    action();
  } catch (const Error& error) {
    if (std::string_view(error.what()).find(text) != std::string_view::npos) {
      return testing::AssertionSuccess();
    }
    return testing::AssertionFailure() << "not '" << text << "' but '" << error.what() << "'";
  } catch (const std::exception& error) {
    return testing::AssertionFailure() << "another exception: " << error.what();
  }
  return testing::AssertionFailure() << "no error; expected '" << text << "'";
}

// Passes if the action returns or throws gigagpt::Error; for damaged input, which may still be
// valid. Memory errors are for the sanitizers to find.
template <class Action>
testing::AssertionResult returns_or_throws_error(Action action) {
  try {
    action();
  } catch (const Error&) {
    return testing::AssertionSuccess();
  } catch (const std::exception& error) {
    return testing::AssertionFailure() << "another exception: " << error.what();
  }
  return testing::AssertionSuccess();
}

// The content with one random mistake: changed bytes, a cut, or a JSON value of another kind.
inline std::string damaged(std::string content, std::mt19937_64& random) {
  static constexpr std::array<std::string_view, 14> kValues = {
      "null", "true",  "-1",   "0",  "0.5",         "9223372036854775807", "18446744073709551615",
      "[]",   "[[1]]", "\"\"", "{}", "\"\\u0000\"", "{\"a\": 1}",          "1e999"};
  if (content.empty()) return content;
  const size_t place = random() % content.size();
  switch (random() % 4) {
    case 0:
      for (size_t i = place; i < content.size() && i < place + 1 + random() % 4; ++i) {
        content[i] = static_cast<char>(random());
      }
      break;
    case 1:
      content.resize(place);
      break;
    case 2:
      content.erase(place, 1 + random() % 8);
      break;
    default: {
      constexpr std::string_view kEnds = " \n,:[]{}";
      const size_t begin = content.find_last_of(kEnds, place);
      const size_t first = begin == std::string::npos ? 0 : begin + 1;
      const size_t end = std::min(content.find_first_of(kEnds, first), content.size());
      content.replace(first, end - first, kValues[random() % kValues.size()]);
    }
  }
  return content;
}

}  // namespace gigagpt
