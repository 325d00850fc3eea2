// Errors that a user can act on, and checks for mistakes of our own.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace gigagpt {

// A configuration, data or I/O mistake. The message says what is wrong, where, and what to do;
// main() prints it as one line and exits with status 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Throws Error naming `what` and the text of the current errno, e.g. "cannot open x: No such file".
[[noreturn]] void fail_errno(const std::string& what);

// Aborts with the place if one of our own invariants does not hold. Never for user input.
#define GIGAGPT_ASSERT(condition) \
  ((condition) ? void() : ::gigagpt::assert_failed(#condition, __FILE__, __LINE__))
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);

}  // namespace gigagpt
