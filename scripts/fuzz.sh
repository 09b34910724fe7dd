#!/usr/bin/env bash
# Runs every fuzz target of the module for a short time each: scripts/fuzz.sh [DURATION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=${1:-10s}
found=0
while IFS=: read -r file target; do
  found=$((found + 1))
  package=./$(dirname "$file")
  printf -- '--- %s %s (%s)\n' "$package" "$target" "$duration"
  go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$duration"
done < <(git ls-files -co --exclude-standard '*_test.go' |
  xargs -r grep -oE '^func Fuzz[A-Za-z0-9_]+' |
  sed -E 's/:func /:/')
printf '%d fuzz targets, none failed\n' "$found"
