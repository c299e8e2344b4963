#!/usr/bin/env bash
# The wheel in environments made from nothing, one Python after the other: what it brings, each extra alone, a short job, and whatever tests are named.
#   .ci/clean_envs.sh                     # 3.11, 3.12 and 3.13; about ten minutes and 8 GB of disk at a time each, removed afterwards
#   .ci/clean_envs.sh 3.13                # one of them
#   TESTS='tests/test_readers.py tests/test_fit.py' .ci/clean_envs.sh 3.12    # these tests too, with the extra `dev`
#   EXTRAS='meeg fmri' .ci/clean_envs.sh 3.13     # of the extras these alone; none if empty
#   DEMO=1 .ci/clean_envs.sh 3.13         # the whole demo too
#   LOWEST=1 .ci/clean_envs.sh 3.11       # instead of the newest versions the lowest that are named, of the requirements and all extras, by uv
# Pythons are looked for as python3.12 and in ~/.pyenv/versions. Needs the package index; the last lines are rows for the table of CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root="$PWD"; [ $# -gt 0 ] || set -- 3.11 3.12 3.13; versions=("$@")
unset PYTHONPATH VIRTUAL_ENV PIP_CONSTRAINT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 MPLBACKEND=Agg OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONNOUSERSITE=1
at="$(mktemp -d "${ENVS:-${TMPDIR:-/tmp}}/brainrecon-clean-XXXXXX")"; [ -n "${KEEP:-}" ] || trap 'rm -rf "$at"' EXIT
failed=0; rows=(); bad=''

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
check() { local what="$1"; shift; if "$@" >"$at/log" 2>&1; then say "  fine: $what"; else say "  NOT fine: $what"; tail -n 25 "$at/log"; failed=$((failed+1)); bad="$bad $what;"; fi; }
find_python() { local p; for p in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python; do if "$p" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then command -v "$p"; return; fi; done; echo "Python $1 was not found" >&2; return 1; }
packages() { "$1" -m pip list --format=freeze --path "$2" 2>/dev/null | wc -l; }
lowest_of() { "$at/build/bin/python" -c 'import email, sys, zipfile; from packaging.requirements import Requirement as R; z = zipfile.ZipFile(sys.argv[1]); m = email.message_from_bytes(z.read(next(n for n in z.namelist() if n.endswith("/METADATA"))))
for r in map(R, m.get_all("Requires-Dist")):
    if not r.marker or any(r.marker.evaluate(dict(extra=e)) for e in sys.argv[2:]): print(f"{r.name}{r.specifier}")' "$@"; }

say 'building'
"$(find_python "${versions[0]}")" -m venv "$at/build"; "$at/build/bin/pip" install -qq build twine
mkdir "$at/tree"; git ls-files -z | tar cf - --null -T - | tar xf - -C "$at/tree"     # what git tracks, and nothing that lies about
(cd "$at/tree" && "$at/build/bin/python" -m build -q --outdir "$at/dist" . >"$at/log" 2>&1) || { tail -n 40 "$at/log"; exit 1; }
check "twine check" "$at/build/bin/twine" check --strict "$at"/dist/*
rm -rf "$at/tree"; wheel="$(echo "$at"/dist/*.whl)"; ls -l "$at/dist"

for v in "${versions[@]}"; do
    bad=''; env="$at/$v"; python="$(find_python "$v")"; say "$("$python" --version), $python"; start=$SECONDS
    "$python" -m venv "$env"; p="$env/bin/python"; "$p" -m pip install -qq -U pip
    everything='meeg fmri pictures vision diffusion prompt jobs viz slurm'; extras="${EXTRAS-$everything}"
    if [ -n "${LOWEST:-}" ]; then
        "$at/build/bin/pip" install -qq uv; lowest_of "$wheel" $everything >"$at/lowest.in"; extras=''
        "$at/build/bin/uv" pip install -q --python "$p" --resolution lowest-direct --index-strategy unsafe-best-match -r "$at/lowest.in"; "$p" -m pip install -qq --no-deps "$wheel"
    else "$p" -m pip install -qq "$wheel"; fi
    site="$("$p" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    say "  installed, $(packages "$p" "$site") packages, $(du -sm "$env" | cut -f1) MB"
    mkdir "$at/far"; cd "$at/far"       # an empty folder: nothing of the tree is seen
    export BRAINRECON_CACHE="$at/far/cache" BRAINRECON_DATA="$at/far/data" BRAINRECON_RUNS="$at/far/runs"
    check 'pip check, requirements alone' "$p" -m pip check
    check 'the library is the one of the wheel' "$p" -c "import brainrecon, sys; assert brainrecon.__file__.startswith('$site'), brainrecon.__file__"
    if [ -n "${LOWEST:-}" ]; then check 'all extras, lowest versions' "$p" -P "$root/tests/extra_cases.py" $everything
    else check 'requirements alone: every extra is asked for' "$p" -P "$root/tests/extra_cases.py"; fi
    for extra in $extras; do     # each in an environment of its own, laid over the first, by the line that its error tells
        layer="$at/layer"; "$python" -m venv --without-pip "$layer"; over="$("$layer/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        echo "$site" > "$over/below.pth"; "$layer/bin/python" -m pip install -qq "brainrecon[$extra]" >"$at/log" 2>&1 || { tail "$at/log"; bad="$bad $extra cannot be installed;"; failed=$((failed+1)); }
        say "  $extra: $("$layer/bin/python" -m pip list --format=freeze --path "$over" 2>/dev/null | cut -d= -f1 | grep -v '^brainrecon$' | tr '\n' ' ')"
        check "$extra alone" "$layer/bin/python" -P "$root/tests/extra_cases.py" "$extra"
        check "pip check, $extra" "$layer/bin/python" -m pip check; rm -rf "$layer"
    done
    "$p" -m pip install -qq "$wheel[demo]"; size="$(du -sm "$env" | cut -f1)"; n="$(packages "$p" "$site")"
    check 'pip check, demo' "$p" -m pip check
    check 'doctor' "$env/bin/brainrecon" doctor
    check 'a short job' "$env/bin/brainrecon" run check/03_short value=2
    check 'one decoder of the demo' "$env/bin/brainrecon" run retrieval/01_decode --recipe demo "kinds=['fmri']" seeds=[0] "decoders=['ridge']" controls=False
    [ -z "${DEMO:-}" ] || { check 'the whole demo' "$env/bin/brainrecon" demo; cat "$at/log"; }
    cd "$root"; unset BRAINRECON_CACHE BRAINRECON_DATA BRAINRECON_RUNS; torch="$("$p" -c 'import torch; print(torch.__version__.split("+")[0])')"; tested=''
    if [ -n "${TESTS:-}" ]; then
        "$p" -m pip install -qq "$wheel[dev]"; check 'pip check, dev' "$p" -m pip check
        status=0; "$p" -m pytest -q -n 0 -p no:cacheprovider $TESTS >"$at/log" 2>&1 || status=$?; tested="$(tail -n 1 "$at/log")"; say "  $tested"
        [ "$status" = 0 ] || { grep -E '^(FAILED|ERROR)' "$at/log" || tail -n 40 "$at/log"; failed=$((failed+1)); bad="$bad tests;"; }
    fi
    rows+=("| $("$p" -c 'import platform; print(platform.python_version())') | $torch | $n packages, $size MB | ${bad:-all fine} | ${tested:-not run} | $(date +%F) |")
    [ -n "${KEEP:-}" ] || rm -rf "$env"; rm -rf "$at/far"; say "  $((SECONDS-start)) s"
done
echo '| Python | torch | with `[demo]` | checks | tests with `[dev]` | date |'; echo '|---|---|---|---|---|---|'; printf '%s\n' "${rows[@]}"
exit $((failed > 0))
