#!/usr/bin/env bash
# clang's reading of the sources: its warnings, thread-safety analysis among them, and clang-tidy's
# checks (.clang-tidy); tests get the warnings alone. It reads what uses LibTorch with libc++, as it
# does not parse LibTorch's headers with GCC 12's library as C++20.
# Usage: tools/tidy.sh [--all]
# Without --all it reads what changed since the last release: the last tag or, in a clone without
# tags, the commit that last changed the version. For a header it reads a source that includes it.
set -euo pipefail
all=no
[[ ${1:-} != --all ]] || { all=yes && shift; }
cd "$(dirname "$0")/.."
# The debug preset compiles each file by itself.
cmake --preset debug >/dev/null
ninja -C build-debug generated/formats/tensorboard.pb.h >/dev/null
build=$PWD/build-debug
known() { grep -oE '"file": "[^"]*"' "$build/compile_commands.json" | cut -d'"' -f4 | sed "s|^$PWD/||" | sort -u; }

changed_since_release() {
  local release changed file
  release=$(git describe --tags --abbrev=0 2>/dev/null ||
    git log -1 --format=%H -G'^project\(gigagpt VERSION' -- CMakeLists.txt)
  changed=$(git diff --name-only --diff-filter=d "$release" && git ls-files -o --exclude-standard)
  if [[ -z $changed && $(git rev-parse HEAD) != $(git rev-parse "$release^{commit}") ]]; then
    echo "tools/tidy.sh: HEAD is not $release, and yet no file differs" >&2
    exit 1
  fi
  for file in $changed; do
    case $file in
      *.cpp) echo "$file" ;;
      *.h) { ls "${file%.h}.cpp" 2>/dev/null; git grep -lF "#include \"$file\"" -- '*.cpp'; } | head -n 1 ;;
    esac
  done | sort -u
}

if [[ $all == yes ]]; then
  files=$(known)
else
  files=$(comm -12 <(changed_since_release) <(known))
fi
files=$(grep -vE '^(build|bench)' <<<"$files" || true)
# GCC's precompiled headers mean nothing to clang, which reads each file with what it includes itself.
commands=$(mktemp -d)
trap 'rm -rf "$commands"' EXIT
sed -E 's#-Winvalid-pch -include [^ ]+cmake_pch\.hxx##' "$build/compile_commands.json" >"$commands/compile_commands.json"
echo "clang-tidy: $(grep -c . <<<"$files") files"
# What links LibTorch is compiled with OpenMP.
with_libtorch=$(grep -B1 '"file"' "$build/compile_commands.json" | grep -A1 -- '-fopenmp' | grep -oE '"file": "[^"]*"' |
  cut -d'"' -f4 | sed "s|^$PWD/||" | sort -u)
export commands with_libtorch
read_file() {
  local options=(-quiet -p "$commands" --extra-arg=-Wthread-safety)
  ! grep -qxF "$1" <<<"$with_libtorch" || options+=(--extra-arg=-stdlib=libc++)
  [[ $1 != *_test.cpp ]] || options+=('--checks=-*,clang-diagnostic-*,bugprone-undelegated-constructor')
  clang-tidy "${options[@]}" "$1" 2> >(grep -vE ' warnings? .*generated\.$' >&2)
}
export -f read_file
xargs -r -P "$(nproc)" -n 1 bash -c 'read_file "$1"' read_file <<<"$files"
