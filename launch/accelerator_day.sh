#!/usr/bin/env bash
# Uses one accelerator well for 25 minutes: measures its arithmetic, steps, loss, views and masked forms, compares with
# the published code, profiles, then renders words, pretrains the compact recipe on them, trains a recogniser, scores it.
# Needs a Python with JAX, Flax, Optax, Orbax and OpenCV, and no network.
#
# Usage: bash launch/accelerator_day.sh OUT
#   PYTHON      interpreter (default: .venv's, else python3)
#   WHEELS      folder of wheels that are installed first, into OUT/work/site; without them a line says what is missing
#   SIZE        full (default), or test: everything, as small as it gets, on any machine
#   MINUTES     of the whole day (default: 25)
#   LIMIT       seconds of this command (default: none): it then ends with 75, and the same command goes on
#   STAGES      names, separated by commas: run these alone, done or not
#   GOLDEN      folder of golden figures (default: shared/golden in the checkout, else beside it)
#   WORDS       text file of words to render (default: the words of Python's own manual)
#   BENCHMARKS  folder of real sets to score beside rendered words
#
# Take home OUT/page.md, OUT/day.json and OUT/forms.json (what "auto" should take: rcmstr_jax/models/forms.json);
# OUT/work holds logs, the trace, compiled programs and runs. Exit codes: launch/accelerator_day.py.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
[ $# -eq 1 ] || { echo "accelerator_day.sh: takes one argument, OUT; got $#: $*" >&2; exit 2; }
mkdir -p "$1/work/site"
out=$(cd "$1" && pwd)
[ -z "${WHEELS:-}" ] || WHEELS=$(cd "$WHEELS" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH="$out/work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if [ -n "${WHEELS:-}" ] && ! cmp -s "$out/work/wheels.txt" <(ls "$WHEELS"); then
  "$python" -m pip install -q --no-index --no-deps --no-compile --disable-pip-version-check --root-user-action=ignore \
    --upgrade --target "$out/work/site" "$WHEELS"/*.whl
  ls "$WHEELS" >"$out/work/wheels.txt"
fi
# The checkout as the installed package would be: configs/ and launch/ lie inside it.
if ! "$python" -P -c 'import rcmstr_jax.configs, rcmstr_jax.launch' 2>/dev/null; then
  mkdir -p "$out/work/site/rcmstr_jax"
  ln -sfn "$PWD"/rcmstr_jax/* "$PWD/configs" "$PWD/launch" "$out/work/site/rcmstr_jax/"
fi
missing=$("$python" -P - <<'END'
from importlib.util import find_spec
names = "array_record cv2 einops flax grain jax jaxtyping lmdb matplotlib ml_collections optax orbax rapidfuzz tensorboardX tqdm"
print(*(name for name in names.split() if not find_spec(name)))
END
)
[ -z "$missing" ] || {
  echo "accelerator_day.sh: $python lacks $missing: give their wheels, WHEELS=FOLDER (pip download --no-deps -d FOLDER $missing)" >&2
  exit 2
}

# Memory is taken as it is needed, so that what a step takes can be seen.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$out/work/compiled}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
# What runs a few times is compiled without LLVM's optimisations, in half the time.
[ "${SIZE:-full}" != test ] || export XLA_FLAGS="--xla_backend_optimization_level=0 ${XLA_FLAGS:-}"
golden="${GOLDEN:-shared/golden}"
[ -n "${GOLDEN:-}" ] || [ -d "$golden" ] || golden=../shared/golden
exec "$python" launch/accelerator_day.py --out="$out" --size="${SIZE:-full}" --minutes="${MINUTES:-25}" \
  --limit="${LIMIT:-0}" --stages="${STAGES:-}" --golden="$golden" --words="${WORDS:-}" --benchmarks="${BENCHMARKS:-}"
