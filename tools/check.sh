#!/usr/bin/env bash
# The rules of the source tree, as a test: which room may include which, how long gpt/ and each file
# may be, and that clang-format has nothing to change. Usage: tools/check.sh [walls|ledger|format]
set -euo pipefail
cd "$(dirname "$0")/.."

sources() { git ls-files -co --exclude-standard -- '*.h' '*.cpp'; }

# Includes run cli -> gpt -> engine -> ops -> base, with formats beside, and within engine/ down its
# floors: each room may include those listed with it. Tests may look wherever they like downwards too.
rooms='
base            base
formats         base formats
ops             base ops
engine/state    base formats ops engine/state
engine/model    base formats ops engine/state engine/model
engine/plan     base formats ops engine/state engine/plan
engine/systems  base formats ops engine/state engine/plan engine/systems
engine/storage  base formats ops engine/state engine/systems engine/storage
engine/run      base formats ops engine/*
engine/check    base formats ops engine/*
gpt             base formats ops engine/* gpt
cli             base formats ops engine/* gpt cli
fuzz            base formats ops engine/* gpt cli fuzz
bench           base formats ops engine/* gpt bench
'
# What the front program links, and what ThreadSanitizer can run.
no_libtorch='^(base|formats)/|^engine/(state|plan|systems)/|^engine/storage/([a-z]+_)*storage'
no_libtorch+='|^engine/run/(resume|run_directory)\.'

families='gpt2|llama|Llama|qwen|Qwen'

check_walls() {
  local bad=0
  sources | xargs grep -oE '^#include "[a-z_]+/([a-z_]+/)?' /dev/null | awk -v rooms="$rooms" '
    function room_of(path) {
      match(path, /^(engine\/[a-z_]+|[a-z_]+)/)
      return substr(path, 1, RLENGTH)
    }
    BEGIN {
      count = split(rooms, lines, "\n")
      for (i = 1; i <= count; i++) {
        words = split(lines[i], word, / +/)
        for (j = 2; j <= words; j++) allowed[word[1], word[j]] = 1
      }
    }
    {
      file = $0; sub(/:.*/, "", file)
      target = $0; sub(/.*"/, "", target)
      room = room_of(file); target = room_of(target); group = target
      sub(/\/.*/, "/*", group)
      if (!((room, target) in allowed) && !((room, group) in allowed)) {
        print file ": " room "/ may not include " target "/"
        bad = 1
      }
    }
    END { exit bad }' || bad=1
  if sources | grep -E "$no_libtorch" | xargs grep -nE '#include <(torch|ATen|c10)/'; then
    echo "these files are free of LibTorch, and may not include it"
    bad=1
  fi
  if sources | grep -E '^engine/' | xargs grep -nE 'GPTConfig|"gpt/'; then
    echo "engine/ may not name GPT"
    bad=1
  fi
  # Tokenizers and programs may have the name of a family.
  if sources | grep -E '^(engine|ops|base|cli)/' | grep -vE '_test\.cpp$|testing\.h$' |
      xargs grep -nE "$families" | grep -vE 'tokenizer gpt2|data/gpt2|gpt2_split|llama\.cpp|_interop'; then
    echo "engine/, ops/, base/ and cli/ may not name a family of models"
    bad=1
  fi
  return $bad
}

code_lines() { xargs cloc --quiet --csv --by-file --include-lang='C++,C/C++ Header' | grep -E '^C'; }

# GPT-2's path, all that its training, evaluation and sampling need of gpt/; and what only one
# further family has. What is common to families, and what a run of GPT-2 does not need, is in files
# of its own.
gpt2_path='^gpt/(config|data|eval|gpt2|model|sample|train)\.(h|cpp)$'
llama_files='^gpt/llama[a-z_]*\.(h|cpp)$'

check_ledger() {
  local bad=0 long
  count() {
    local lines
    lines=$(sources | grep -vE '_test\.cpp$' | grep -E "$2" | code_lines | awk -F, '{n += $5} END {print n}')
    echo "$1: $lines of $3 code lines"
    [[ $lines -le $3 ]] || bad=1
  }
  count "gpt/, GPT-2" "$gpt2_path" 565
  count "gpt/, llama alone" "$llama_files" 150
  long=$(sources | code_lines | awk -F, '$5 > 400 {print $2 ": " $5 " code lines, at most 400"}')
  [[ -z $long ]] || echo "$long"
  [[ $bad -eq 0 && -z $long ]]
}

# Other versions lay out a few lines in another way, so one version decides: Debian 12's.
check_format() {
  if [[ $(clang-format --version) == *"version 14."* ]]; then
    sources | xargs clang-format --dry-run --Werror
  else
    echo "format: not checked, as clang-format here is not version 14"
  fi
}

for check in "${@:-walls ledger format}"; do
  for part in $check; do "check_$part"; done
done
