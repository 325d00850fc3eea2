// What the fuzz targets share. An input is files for one of our readers; it may be refused with
// Error. Any other exception, a wrong value, a sanitizer's report, a hang, or memory out of
// proportion is a finding.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace gigagpt::fuzz {

// Where this process' files are: a folder that fuzz/run makes in memory, and removes.
inline const Path& scratch() {
  static const Path path = [] {
    const char* folder = std::getenv("GIGAGPT_FUZZ_SCRATCH");
    if (folder == nullptr) {
      std::fputs("set GIGAGPT_FUZZ_SCRATCH to an empty folder, as fuzz/run does\n", stderr);
      std::exit(2);
    }
    return Path(folder);
  }();
  return path;
}

inline Path write(std::string_view name, std::string_view content) {
  const Path path = scratch() / name;
  File::create(path).write(content);
  return path;
}

// A second file in the same input begins after the first zero byte, which text does not have.
struct Parts {
  std::string_view first, second;
};
inline Parts split(std::string_view input) {
  const size_t zero = input.find('\0');
  if (zero == std::string_view::npos) return {input, {}};
  return {input.substr(0, zero), input.substr(zero + 1)};
}

template <class Read>
int run(const uint8_t* data, size_t size, Read read) {
  try {
    read(std::string_view(reinterpret_cast<const char*>(data), size));
  } catch (const Error& error) {
    // One clear line.
    GIGAGPT_ASSERT(error.what()[0] != '\0');
  }
  return 0;
}

}  // namespace gigagpt::fuzz
