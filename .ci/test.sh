#!/usr/bin/env bash
# The quick tests: no site, no browser, no job. Arguments go to pytest. Everything is run by .ci/run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
exec "${VENV:-.venv}/bin/python" -m pytest -q tests -m 'not slow and not gpu and not data' --ignore tests/test_site.py "$@"
