#!/usr/bin/env bash
# Installs what the checks need in .venv, then runs ruff, mypy and the test suite.
# Usage: bash launch/test.sh [PYTEST ARGUMENTS]      e.g. bash launch/test.sh tests/models -k resnet
# The installed wheel is tested by launch/test_wheel.sh.
# Five tests of a minute and more (processes killed and resumed, a day on an accelerator in small) run with -m long alone.
# PYTHON names the interpreter of a new .venv (default: python3.11, python3.12 or python3.13 on PATH).
# Exits non-zero when any of them fails; all always run.
set -uo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
. launch/venv.sh

ensure_venv dev
failed=""

check() { # NAME COMMAND...: runs it, and remembers its failure
  local name="$1" start=$SECONDS code=0
  shift
  echo "== $name"
  "$@" || { code=$?; failed="$failed $name"; }
  echo "== $name: exit $code after $((SECONDS - start)) s"
}

check ruff .venv/bin/python -m ruff check .
check format .venv/bin/python -m ruff format --check .
check mypy .venv/bin/python -m mypy
check pytest .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15 "$@"

[ -z "$failed" ] || fail "failed:$failed"
