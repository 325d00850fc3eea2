#!/usr/bin/env bash
# clang's reading of the sources: its warnings, thread-safety analysis among them, and clang-tidy's
# checks (.clang-tidy); tests get the warnings alone. It reads them with libc++, as it does not parse
# LibTorch's headers with GCC 12's library as C++20.
# Usage: tools/tidy.sh [--all] [BUILD_DIRECTORY]   (a build with tests knows how to compile them, too)
# Without --all it reads what changed since the last release: the last tag or, in a clone without
# tags, the commit that last changed the version. For a header it reads a source that includes it.
set -euo pipefail
all=no
[[ ${1:-} != --all ]] || { all=yes && shift; }
cd "$(dirname "$0")/.."
build=$(realpath "${1:-build}")
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
files=$(grep -v '^build' <<<"$files" || true)
echo "clang-tidy: $(grep -c . <<<"$files") files"
options=(-quiet -p "$build" --extra-arg=-stdlib=libc++ --extra-arg=-Wthread-safety
         --extra-arg=-idirafter"$(g++ -print-file-name=include)")  # omp.h
read_all() { xargs -r -P "$(nproc)" -n 1 clang-tidy "${options[@]}" "$@" 2> >(grep -vE ' warnings? .*generated\.$' >&2); }
bad=0
{ grep -vE '_test\.cpp$' <<<"$files" || true; } | read_all || bad=1
{ grep -E '_test\.cpp$' <<<"$files" || true; } |
  read_all '--checks=-*,clang-diagnostic-*,bugprone-use-after-move' || bad=1
exit $bad
