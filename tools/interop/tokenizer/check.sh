#!/usr/bin/env bash
# Compares `gigagpt tokenizer` with three other implementations; see check.mjs. What npm installs goes
# to the build directory. Usage: check.sh BUILD_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$(cd "$1" && pwd)/gigagpt
work=$(cd "$1" && pwd)/interop/tokenizer
mkdir -p "$work"
cd "$work"

if ! cmp -s "$here/package-lock.json" package-lock.json || [[ ! -e node_modules/.complete ]]; then
  cp "$here"/{package.json,package-lock.json,.npmrc} .
  npm ci --omit=optional || { echo "npm could not install what package.json lists" >&2; exit 1; }
  touch node_modules/.complete
fi
cp "$here/check.mjs" .

# Text of packages.txt and packages-test.txt.
rm -rf texts
mkdir texts
bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //' >texts/en.txt
faq=/usr/share/doc/debian/FAQ
for language in ja ru zh-cn; do
  if [[ -e $faq/debian-faq.$language.txt.gz ]]; then
    zcat "$faq/debian-faq.$language.txt.gz" >"texts/$language.txt"
  fi
done
head -n 60000 /usr/share/hunspell/ar.dic >texts/ar.txt
cp /usr/share/hunspell/hi_IN.dic texts/hi.txt
perl -CO -e 'for (0..0x3FFFF) { print chr if chr =~ /[^\P{Assigned}\p{Surrogate}]/ }' >characters.txt

exec node check.mjs "$program"
