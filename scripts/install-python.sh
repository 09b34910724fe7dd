#!/usr/bin/env bash
# Installs the Python packages that the SDK is tested with into .tools/python, a virtual environment of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=sdk/python/requirements-test.txt
env=.tools/python
if [ -x "$env/bin/python" ] && cmp -s "$wanted" "$env/installed.txt"; then
  exit 0
fi
rm -rf "$env"
python3 -m venv "$env"
"$env/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
cp "$wanted" "$env/installed.txt"
