#!/usr/bin/env bash
# The rules of the source tree, as a test: which room may include which, how long gpt/ and each file
# may be, and that clang-format has nothing to change. Usage: tools/check.sh [walls|ledger|format]
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- '*.h' '*.cpp'; }

# Includes run cli -> gpt -> engine -> ops -> base, with formats beside: each room may include those
# listed after it. Tests may look wherever they like downwards too.
check_walls() {
  local bad=0 file room target allowed
  while IFS=: read -r file include; do
    room=${file%%/*} target=${include#*\"} target=${target%%/*}
    case $room in
      base) allowed="base" ;;
      formats) allowed="base formats" ;;
      ops) allowed="base ops" ;;
      engine) allowed="base formats ops engine" ;;
      gpt) allowed="base formats ops engine gpt" ;;
      cli) allowed="base formats ops engine gpt cli" ;;
      fuzz) allowed="base formats ops engine gpt cli fuzz" ;;
      bench) allowed="base formats ops engine gpt bench" ;;
      *) allowed="" ;;
    esac
    if [[ " $allowed " != *" $target "* ]]; then
      echo "$file: $room/ may not include $target/"
      bad=1
    fi
  done < <(sources | xargs grep -oE '^#include "[a-z_]+/' /dev/null)
  # These rooms stay free of LibTorch, and the engine does not know what a GPT is.
  if sources | grep -E '^(base|formats)/' | xargs grep -nE '#include <(torch|ATen|c10)/'; then
    echo "base/ and formats/ may not include LibTorch"
    bad=1
  fi
  if sources | grep -E '^engine/' | xargs grep -nE 'GPTConfig|hf_gpt2|"gpt/'; then
    echo "engine/ may not name GPT"
    bad=1
  fi
  return $bad
}

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
