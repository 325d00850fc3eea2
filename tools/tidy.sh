#!/usr/bin/env bash
# clang-tidy over the sources, tests left out. Left out too is what includes <ATen/ATen.h> or
# autograd's headers: with GCC 12's library clang 14 does not parse those as C++20.
# Usage: tools/tidy.sh BUILD_DIRECTORY (or cmake --build build --target tidy)
set -euo pipefail
build=$(realpath "$1")
cd "$(dirname "$0")/.."
git ls-files -co --exclude-standard -- '*.cpp' | grep -v '_test\.cpp$' |
  xargs grep -LE '<ATen/ATen\.h>|<torch/csrc/' |
  xargs -P "$(nproc)" -n 1 clang-tidy -quiet -p "$build"
