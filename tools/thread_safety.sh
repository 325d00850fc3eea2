#!/usr/bin/env bash
# Has clang check what guards what (base/mutex.h) in the files that use it and are free of LibTorch.
# Usage: tools/thread_safety.sh
set -euo pipefail
cd "$(dirname "$0")/.."
check() {
  clang++ -std=c++20 -fsyntax-only -Wall -Wextra -Wno-unused-parameter -Wthread-safety -Werror -I. \
    '-DHWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL)' "$@"
}

# A check that lets this pass would let everything pass.
if check -x c++ - 2>/dev/null <<'END'; then
#include "base/mutex.h"
struct Counter {
  gigagpt::Mutex mutex_;
  int count_ GUARDED_BY(mutex_) = 0;
  void increment() { ++count_; }
};
END
  echo "clang does not notice an access without its mutex" >&2
  exit 1
fi

files=$(git ls-files 'engine/storage/*.cpp' 'engine/systems/*.cpp' cli/encode.cpp | grep -vE '_test\.cpp|mpi_wire|row_slices')
export -f check
xargs -P "$(nproc)" -n 1 bash -c 'check "$1"' check <<<"$files"
