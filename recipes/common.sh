# What the recipes share; sourced by them. Leads to the top of the source tree, with the files that
# were given, if any, in `files`.

files=()
for file in "$@"; do
  [[ $file != -* ]] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 1; }
  [[ -e $file ]] || { echo "$(basename "$0"): there is no $file" >&2; exit 1; }
  files+=("$(realpath "$file")")
done
cd "$(dirname "$0")/.."

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Downloads URL to FILE unless it is there; what was broken off goes on.
download() {
  local url=$1 file=$2
  [[ -e $file ]] && return
  command -v curl >/dev/null || fail "curl is missing; install it, or download $url and give the file"
  mkdir -p "$(dirname "$file")"
  curl --fail --location --retry 3 --continue-at - --output "$file.part" "$url" ||
    fail "$url could not be downloaded; give the file if you have it"
  mv "$file.part" "$file"
}

# GPT-2's tokenizer, or the one that TOKENIZER names, in `tokenizer`.
find_tokenizer() {
  tokenizer=${TOKENIZER:-data/gpt2}
  [[ -e $tokenizer ]] || tools/gpt2_vocab.sh "$tokenizer"
}

# Runs the program, built if need be.
program() {
  if [[ ! -x build/gigagpt ]]; then
    tools/install.sh packages.txt
    cmake --preset release >/dev/null
    cmake --build --preset release --target gigagpt gigagpt-compute
  fi
  build/gigagpt "$@"
}
prepare() { program prepare "$@"; }

# The inputs as flags, in `inputs`.
as_inputs() {
  inputs=()
  for file in "$@"; do inputs+=(--input "$file"); done
}

next() { printf '\nTo train:\n  %s\n' "$*"; }
