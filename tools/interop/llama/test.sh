#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Trains small models, exports them as GGUF files of each type, and has llama.cpp run those: the same
# tokens, logits and texts as PyTorch computes from the checkpoints. Usage: test.sh BUILD_DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd)
gigagpt=$build/gigagpt
work=$build/llama_interop
modules=$work/npm

# Prebuilt llama.cpp for the CPU, from npm: some 90 MB, once.
if ! cmp -s "$here/package-lock.json" "$modules/installed"; then
  rm -rf "$modules"
  mkdir -p "$modules"
  cp "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$modules"
  (cd "$modules" && npm install --no-save --no-progress)
  cp "$here/package-lock.json" "$modules/installed"
fi
ggml=$(find "$modules/node_modules/@node-llama-cpp" -name libggml-base.so | head -1)

cd "$work"
rm -rf data out tokenizer ./*.gguf
bible -f gen1:1-deu34:12 | sed 's/^[^ ]* //' >text.txt
"$gigagpt" prepare --input text.txt --tokenizer char --out data/char
"$gigagpt" tokenizer train --input text.txt --vocab_size 512 --out tokenizer
"$gigagpt" prepare --input text.txt --tokenizer tokenizer --out data/bpe

# model NAME DATA VOCAB_SIZE [FLAGS]: more tokens than the tokenizer has become unused ones.
model() {
  local name=$1 data=$2 vocab_size=$3
  "$gigagpt" train "$here/test.yaml" --dataset "data/$data" --vocab_size "$vocab_size" \
    --out_dir "out/$name" --log_steps 100 "${@:4}" 2>"$name.log" || { cat "$name.log"; exit 1; }
  local files=()
  for type in f32 f16 bf16 q8_0; do
    "$gigagpt" export --checkpoint_path "out/$name" --gguf "$name-$type.gguf" --type $type
    files+=("$name-$type.gguf")
  done
  /usr/bin/python3 "$here/reference.py" "out/$name"/checkpoint_* "$here/prompts.json" "$name.jsonl"
  /usr/bin/python3 "$here/ours.py" "$gigagpt" "out/$name" "$name.jsonl"
  node "$here/compare.mjs" "$modules" "$name.jsonl" "$gigagpt" "data/$data" "${files[@]}"
  /usr/bin/python3 "$here/rounding.py" "$ggml" "${files[@]}"
}
model char char 64
model bpe bpe 520
model gelu_new bpe 520 --activation gelu_new

# That all this can fail: two matrices of one shape, each under the other's name.
LC_ALL=C sed 's/blk\.0\.attn_output\.weight/blk.@.attn_output.weight/
              s/blk\.1\.attn_output\.weight/blk.0.attn_output.weight/
              s/blk\.@\.attn_output\.weight/blk.1.attn_output.weight/' bpe-f32.gguf >swapped.gguf
if node "$here/compare.mjs" "$modules" bpe.jsonl "$gigagpt" data/bpe swapped.gguf >swapped.log 2>&1
then
  echo "a file with two matrices swapped passed"
  exit 1
fi
grep -q "^WRONG swapped.gguf: logits differ by" swapped.log
