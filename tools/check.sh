#!/usr/bin/env bash
# The rules of the source tree, as a test: which room may include which, how long gpt/ and each file
# may be, and that clang-format has nothing to change. Usage: tools/check.sh [walls|ledger|format]
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- '*.h' '*.cpp'; }

# Includes run cli -> gpt -> engine -> ops -> base, with formats beside, and within engine/ down its
# floors: each room may include those listed with it. Tests may look wherever they like downwards too.
check_walls() {
  local bad=0 file include room target allowed
  while IFS=: read -r file include; do
    room=$(room_of "$file") target=$(room_of "${include#*\"}")
    case $room in
      base) allowed="base" ;;
      formats) allowed="base formats" ;;
      ops) allowed="base ops" ;;
      engine/state) allowed="base formats ops engine/state" ;;
      engine/model) allowed="base formats ops engine/state engine/model" ;;
      engine/plan) allowed="base formats ops engine/state engine/plan" ;;
      engine/systems) allowed="base formats ops engine/state engine/plan engine/systems" ;;
      engine/storage) allowed="base formats ops engine/state engine/systems engine/storage" ;;
      engine/run) allowed="base formats ops engine/" ;;
      gpt) allowed="base formats ops engine/ gpt" ;;
      cli) allowed="base formats ops engine/ gpt cli" ;;
      fuzz) allowed="base formats ops engine/ gpt cli fuzz" ;;
      bench) allowed="base formats ops engine/ gpt bench" ;;
      *) allowed="" ;;
    esac
    if [[ " $allowed " != *" $target "* && ! (" $allowed " == *" engine/ "* && $target == engine/*) ]]; then
      echo "$file: $room/ may not include $target/"
      bad=1
    fi
  done < <(sources | xargs grep -oE '^#include "[a-z_]+/([a-z_]+/)?' /dev/null)
  if sources | grep -E "$no_libtorch" | xargs grep -nE '#include <(torch|ATen|c10)/'; then
    echo "these files are free of LibTorch, and may not include it"
    bad=1
  fi
  if sources | grep -E '^engine/' | xargs grep -nE 'GPTConfig|hf_gpt2|"gpt/'; then
    echo "engine/ may not name GPT"
    bad=1
  fi
  return $bad
}

# "engine/run" for engine/run/store.h, else the first folder.
room_of() {
  local rest=${1#engine/}
  if [[ $1 == engine/*/* ]]; then echo "engine/${rest%%/*}"; else echo "${1%%/*}"; fi
}

# What the front program links, and what ThreadSanitizer can run.
no_libtorch='^(base|formats)/|^engine/(state|plan|systems)/|^engine/storage/(storage|file_storage)'
no_libtorch+='|^engine/run/(resume|run_directory)\.'

code_lines() { xargs cloc --quiet --csv --by-file --include-lang='C++,C/C++ Header' | grep -E '^C'; }

check_ledger() {
  local gpt long
  gpt=$(sources | grep '^gpt/' | grep -vE '_test\.cpp$|/testing\.h$' | code_lines | awk -F, '{n += $5} END {print n}')
  echo "gpt/: $gpt of 565 code lines"
  long=$(sources | code_lines | awk -F, '$5 > 400 {print $2 ": " $5 " code lines, at most 400"}')
  [[ -z $long ]] || echo "$long"
  [[ $gpt -le 565 && -z $long ]]
}

check_format() { sources | xargs clang-format --dry-run --Werror; }

for check in "${@:-walls ledger format}"; do
  for part in $check; do "check_$part"; done
done
