#!/usr/bin/env bash
# Builds the wheel, installs it without this checkout in a new virtual environment, and uses it from another folder:
# every public name and module loads; pretrains on a folder of images, evaluates, and reads with the result.
# Usage: bash launch/test_wheel.sh
#   PYTHON       interpreter of the new environment (default: that of .venv)
#   CONSTRAINTS  file of exact releases (default: constraints.txt)
#   KEEP         folder to work in, which is kept; without it a temporary one
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/venv.sh

root=$PWD
python="${PYTHON:-.venv/bin/python}"
[ -n "$(python_version "$python")" ] || fail "$python does not run; bash launch/test.sh makes .venv, or name one: PYTHON=..."
constraints=$(realpath "${CONSTRAINTS:-constraints.txt}")
if [ -n "${KEEP:-}" ]; then
  mkdir -p "$KEEP"
  folder=$(realpath "$KEEP")
else
  folder=$(mktemp -d)
  trap 'wait; rm -rf "$folder"' EXIT
fi

# From a copy, because setuptools keeps what was once built beside the sources.
mkdir "$folder/source"
cp -r setup.cfg pyproject.toml README.md LICENSE rcmstr_jax configs launch "$folder/source"
"$python" -m pip wheel -q --disable-pip-version-check --no-deps -w "$folder/wheel" "$folder/source"
rm -r "$folder/source"
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --no-compile --disable-pip-version-check "$folder"/wheel/*.whl -c "$constraints"
echo "wheel: $(stat -c %s "$folder"/wheel/*.whl) bytes; installation: $(du -sm "$folder/venv" | cut -f1) MB without bytecode; ${SECONDS} s"

mkdir -p "$folder/elsewhere"
cd "$folder/elsewhere"
# What is compiled runs a few times: see tests/flags.py.
export PATH="$folder/venv/bin:$PATH" PYTHONNOUSERSITE=1 JAX_PLATFORMS=cpu
XLA_FLAGS=$(PYTHONPATH=$root "$folder/venv/bin/python" -c 'from tests.flags import xla_flags; print(xla_flags())')
export XLA_FLAGS
export JAX_COMPILATION_CACHE_DIR="$folder/compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
unset PYTHONPATH PYTHONHOME

load() { # every public name, and every module that is no program of its own (launchers define the same flags)
  python - "$root" <<'END'
import importlib, pathlib, pkgutil, sys

import rcmstr_jax

assert not pathlib.Path(rcmstr_jax.__file__).is_relative_to(sys.argv[1]), "this is the checkout"
names = [getattr(rcmstr_jax, name) for name in rcmstr_jax.__all__]
modules = [m.name for m in pkgutil.walk_packages(rcmstr_jax.__path__, "rcmstr_jax.") if ".launch." not in m.name]
for name in modules:
    importlib.import_module(name)
print(f"loaded {len(names)} public names and {len(modules)} modules")
END
}

draw() { # words in Pillow's own font, as a folder of images and as a benchmark
  python - <<'END'
import pathlib, random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record

draw, noise = random.Random(0), np.random.default_rng(0)
lines, words = [], pathlib.Path("words")
words.mkdir()
for number in range(48):
    text = "".join(draw.choices("adeilnorst", k=draw.randint(3, 5)))
    image = Image.fromarray(noise.integers(200, 256, (32, 100, 3), np.uint8))
    ImageDraw.Draw(image).text((6, 2), text, fill="black", font=ImageFont.load_default(22))
    image.save(words / f"{number}.png")
    lines.append(f"{number}.png\t{text}\n")
(words / "labels.tsv").write_text("".join(lines))
records = (Record((words / name).read_bytes(), text, "") for name, text in (line.split() for line in lines[:8]))
write_lmdb(pathlib.Path("benchmark/drawn"), records)
END
}

expect() { # CODE TEXT COMMAND...: ends with this code and says this
  local code="$1" text="$2" got=0 said
  shift 2
  said=$("$@" 2>&1) || got=$?
  { [ "$got" = "$code" ] && grep -qF -- "$text" <<<"$said"; } || fail "$* ended with $got, not with $code and '$text': $said"
}

answers() { # commands that compute nothing
  local command
  for command in evaluate prepare convert benchmark; do expect 1 "launch/" "rcmstr-$command" --help; done
  # What only rendering needs is not installed.
  expect 2 "pip install 'rcmstr-jax[render]'" rcmstr-render --num=4 --out=rendered
  expect 2 "did you mean mini?" rcmstr-pretrain --config=minni --workdir=none
}

{ load && answers; } & # beside the compilation of the steps
beside=$!
draw
rcmstr-pretrain --config=mini:test --workdir=run --config.data.source=folder:words --config.picture_every=-1
rcmstr-evaluate --config=frozen_ctc:test --workdir=scored --pretrained=run \
  --config.train.source=folder:words --config.benchmarks=benchmark --config.random_beside=False
rcmstr-recognize --checkpoint="$(dirname "$(find scored -name recognizer | sort | head -n 1)")" words >read.txt
[ "$(wc -l <read.txt)" -eq 48 ] || fail "48 images were not read: $(cat read.txt)"
# Weights that come with the package, once there are some.
[ ! -d "$root/rcmstr_jax/pretrained/compact" ] || expect 0 "48 images read" rcmstr-recognize words
rcmstr-report run scored --out=report.html --num_words=4
wait "$beside" || fail "not every name loads, or a command answered otherwise; see above"
echo "the wheel works: ${SECONDS} s"
