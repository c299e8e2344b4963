#!/usr/bin/env bash
# Bring the tree to the state that the tests ask for: clean notebooks, exported library, README from the landing page.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin="${VENV:-.venv}/bin"; [ -x "$bin/nbdev_export" ] || bin="$(dirname "$(command -v nbdev_export)")"
"$bin/nbdev_clean"
"$bin/nbdev_export"
"$bin/python" .ci/readme.py
echo 'clean, exported, README made; now: git diff'
