// What the programs show: messages for the person who watches, on standard error, and results for
// whoever reads standard output.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace gigagpt::cli {

// Makes standard streams harmless to this process. Opens those that are closed on /dev/null, so
// that no file of ours takes their numbers, and lets a pipe without a reader, or a file at
// its limit, fail the write instead of ending the process. main() calls it first.
void secure_standard_streams();

// Writes to standard error, or another stream. Drops what cannot be written: a closed terminal, a
// full disk or a pipe without a reader is no reason to end a run.
void write_message(std::string_view text, int stream = 2) noexcept;

// Writes a line to standard error, likewise.
template <class... Args>
void print_message(fmt::format_string<Args...> format, Args&&... args) {
  write_message(fmt::format(format, std::forward<Args>(args)...) + "\n");
}

// Flushes standard output. Throws Error if it did not take all that was printed.
void finish_results();

}  // namespace gigagpt::cli
