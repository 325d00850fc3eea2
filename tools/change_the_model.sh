#!/usr/bin/env bash
# Does what docs/CHANGE_THE_MODEL.md says: applies each of its diffs to a copy of gpt/ and
# ops/optimizers/, builds gigagpt-compute with what that changes, and runs `check`. All must pass, but
# for the one that is introduced as a mistake, which must fail with the line that follows it.
# Usage: tools/change_the_model.sh BUILD, a build made with Ninja.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# change-N.diff, mistake-N.diff with mistake-N.txt, or NAME-N.diff for an optimizer of that name.
awk -v work="$work" '
  /^```/ { if (out != "") { close(out); out = ""; next } }
  /^```diff/ { kind = NF > 1 ? $2 : "change"; out = work "/" kind "-" ++n ".diff"; next }
  /^```$/ && kind == "mistake" { out = work "/mistake-" n ".txt"; kind = ""; next }
  out != "" { print > out }
' "$root/docs/CHANGE_THE_MODEL.md"

# The build's own commands, on the copy; what they make is linked before the libraries that have it
# unchanged.
commands=$(ninja -C "$build" -t commands gigagpt-compute)
compile() {  # a source within the copy, or one that includes what is changed
  local command object
  object=$copy/$(tr / _ <<<"$1").o
  command=$(grep -E -- "-c $root/$1.cpp( |$)" <<<"$commands")
  command=${command//-I$root /-I$copy -I$root }
  [[ ! -e $copy/$1.cpp ]] || command=${command/-c $root/-c $copy}
  command=$(sed -E "s#-MF [^ ]+#-MF $object.d#; s#-o [^ ]+#-o $object#" <<<"$command")
  (cd "$build" && eval "$command")
}
link() {
  local command
  command=$(grep -E -- '-o gigagpt-compute( |$)' <<<"$commands")
  (cd "$build" && eval "${command/-o gigagpt-compute/$copy/*.o -o $copy/gigagpt-compute}")
}

count=0
for diff in "$work"/*.diff; do
  name=$(basename "$diff" .diff)
  copy=$work/$name
  mkdir "$copy"
  mkdir "$copy/ops"
  cp -r "$root/gpt" "$copy/gpt"
  cp -r "$root/ops/optimizers" "$copy/ops/optimizers"
  (cd "$copy" && git apply "$diff")
  sources=(gpt/gpt2 gpt/families)
  flags=()
  if [[ $name != change-* && $name != mistake-* ]]; then
    sources=(ops/optimizer ops/kernels/optimizer ops/optimizers/list)
    flags=(--optimizer "${name%-*}")
  fi
  compile "${sources[0]}" &
  for source in "${sources[@]:1}"; do compile "$source"; done
  wait $!
  link
  status=0
  "$copy/gigagpt-compute" check "$root/configs/111m.yaml" "${flags[@]}" >"$copy/log" || status=$?
  echo "$name: $(tail -1 "$copy/log")"
  if [[ $name == mistake-* ]]; then
    [[ $status -eq 1 ]] && grep -qF "$(cat "$work/$name.txt")" "$copy/log" ||
      { cat "$copy/log"; echo "$name: it should have been found"; exit 1; }
  elif [[ $status -ne 0 ]]; then
    cat "$copy/log"
    exit 1
  fi
  count=$((count + 1))
done
[[ $count -ge 6 ]] || { echo "only $count diffs were found"; exit 1; }
