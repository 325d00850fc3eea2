#!/usr/bin/env bash
# Compares the fixtures of `model: llama` with transformers, or with --write makes them anew. PyTorch
# and transformers come from PyPI, with CUDA's libraries (6 GB, some three minutes), into
# ~/.cache/gigagpt; the folder of PyTorch is the one that bench/pytorch uses.
# Usage: tools/judges.sh [--write]
set -euo pipefail
cd "$(dirname "$0")/.."
torch=2.15.0 transformers=5.24.0
folder=${XDG_CACHE_HOME:-$HOME/.cache}/gigagpt/torch-$torch
case ${1:-} in
  --help) sed -n '2,/^set/s/^# //p' "$0" && exit ;;
  --write) mode=--out ;;
  "") mode=--check ;;
  *) echo "tools/judges.sh: unknown option $1, see --help" >&2 && exit 2 ;;
esac
if [[ ! -e $folder/bin/complete ]]; then
  python3 -m venv --clear "$folder"
  "$folder/bin/python" -m pip install "torch==$torch" numpy setuptools
  touch "$folder/bin/complete"
fi
"$folder/bin/python" -c "import transformers; assert transformers.__version__ == '$transformers'" 2>/dev/null ||
  "$folder/bin/python" -m pip install "transformers==$transformers"
OMP_NUM_THREADS=1 "$folder/bin/python" tools/llama_reference.py "$mode" gpt/testdata
