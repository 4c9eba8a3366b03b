#!/usr/bin/env bash
# The whole method in miniature on a CPU: renders words, pretrains a small RCMSTR on them without
# labels, and scores its encoder beside the same encoder at random initialisation, frozen and fine-tuned.
#
# Usage: bash launch/quickstart.sh [OUTDIR]          (default: out)
#   PYTHON   interpreter of a new .venv (default: python3.11, python3.12 or python3.13 on PATH)
#   SEED     seed of words, initialisation and everything drawn later (default: 0)
#   SIZE     full (default), or test: a few steps on a few words, to see that everything runs
#
# Writes OUTDIR/results.json and prints one table and the paths of the pictures. Interrupted, it goes on
# where it stopped when the same command is run again; finished phases are reused
# while their flags and code stay as they are.
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
[ $# -le 1 ] || { echo "quickstart.sh: takes one argument, OUTDIR; got $#: $*" >&2; exit 2; }
invoked_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/venv.sh

out="${1:-out}"
case "$out" in /*) ;; *) out="$invoked_from/$out" ;; esac
seed="${SEED:-0}"
[[ "$seed" =~ ^[0-9]+$ ]] || fail "SEED=$seed must be a whole number, 0 or more"
size="${SIZE:-full}"

# ---- the mini world and the share of time of each part -------------------------------------------
# The words that are scored are in none of the others: --split goes by a hash of the word.
world=(--difficulty=easy --paper=1 --alphabet=adeilnorst --case=lower --numbers=0 --punctuation=0
  --min_length=3 --max_length=5 --frequency_power=0 --holdout=0.25 --num_fonts=6)
num_unlabelled=30000 num_labelled=2000 num_test=2000
# Words of all characters that look like crops of photographs, for the packaged recogniser and the one that is trained here.
real_looking=(--difficulty=scene) num_real_looking=300
pretrain=(--config=configs/pretrain/mini.py)
frozen=(--config=configs/evaluate/frozen_ctc.py:mini)
finetuned=(--config=configs/evaluate/finetune_ctc.py:mini)
# --------------------------------------------------------------------------------------------------
case "$size" in
  full) ;;
  test)
    # Programs that run a few steps are compiled without LLVM's optimisations, in half the time.
    export XLA_FLAGS="--xla_backend_optimization_level=0 ${XLA_FLAGS:-}"
    num_unlabelled=64 num_labelled=40 num_test=24 num_real_looking=24
    pretrain=("${pretrain[0]}:test")
    frozen=("${frozen[0]%:mini}:test") finetuned=("${finetuned[0]%:mini}:test")
    ;;
  *) fail "SIZE=$size is unknown; use full or test" ;;
esac

mkdir -p "$out"
out=$(cd "$out" && pwd)
SECONDS=0
ensure_venv render
python="$PWD/.venv/bin/python"
installed=$SECONDS
timings=()
chain="" # commands and checksums of code so far: a phase is stale as soon as one before it changes
resume="interrupted: the same command goes on from here"
# What runs side by side does not hear Ctrl-C, which ends this script alone.
trap 'kill $(jobs -p) 2>/dev/null; wait; echo "$resume" >&2; exit 130' INT

stopped() { # CODE NAME COMMAND...; 75 is what training leaves with when it was asked to stop
  [ "$1" -ne 75 ] || fail "$resume"
  fail "$2 failed (exit $1); its command was: ${*:3}"
}

depends_on() { # PATHS...: from here on, another content of these files makes a phase stale
  local sum
  sum=$(find "$@" -name '*.py' -o -name '*.json' | LC_ALL=C sort | xargs cat | cksum)
  chain+="code $sum"$'\n'
}

# is_left NAME DIR keep|clear COMMAND...: whether the command has to run: not if it finished, unchanged, in DIR.
# An interrupted DIR is continued (keep) or made anew (clear); a stale one is always made anew.
is_left() {
  local name="$1" dir="$2" partial="$3"
  shift 3
  chain+="$name: $*"$'\n'
  local key="$dir.command" done_mark="$dir.done" state=none
  if [ -e "$dir" ]; then
    [ -f "$key" ] || fail "$dir is in the way and was not made by this script; move it or name another OUTDIR"
    state=partial
    [ "$(cat "$key")" = "${chain%$'\n'}" ] || state=stale
    [ "$state" = partial ] && [ -f "$done_mark" ] && state=done
  fi
  if [ "$state" = done ]; then
    echo "== $name: reused from $dir (same flags and code)"
    timings+=("$name"$'\t'"reused, was $(cat "$done_mark") s")
    return 1
  fi
  if [ "$state" = stale ] || { [ "$state" = partial ] && [ "$partial" = clear ]; }; then
    rm -rf "$dir"
  fi
  rm -f "$done_mark"
  mkdir -p "$(dirname "$dir")"
  printf '%s\n' "${chain%$'\n'}" >"$key"
  echo "== $name"
}

finished() { # NAME DIR SECONDS
  echo "$3" >"$2.done"
  timings+=("$1"$'\t'"$3 s")
  echo "== $1: $3 s"
}

phase() { # NAME DIR keep|clear COMMAND...: runs what is left of it
  local start=$SECONDS
  is_left "$@" || return 0
  "${@:4}" || stopped $? "$1" "${@:4}"
  finished "$1" "$2" $((SECONDS - start))
}

# Phases that need nothing of each other: each is begun, and `together` waits for all. Most of their time goes into
# starting and compiling, which one core does.
begun=()
begin() { # NAME DIR keep|clear COMMAND...
  is_left "$@" || return 0
  local code=0 start=$SECONDS
  (
    "${@:4}" > >(sed -u "s/^/[$1] /") 2>&1 || code=$?
    echo "$code $((SECONDS - start))" >"$2.ended"
    exit "$code"
  ) &
  begun+=("$1" "$2" "${*:4}")
}

together() {
  local name dir command code seconds failed=()
  wait
  set -- "${begun[@]}"
  begun=()
  while [ $# -gt 0 ]; do
    name="$1" dir="$2" command="$3"
    shift 3
    read -r code seconds <"$dir.ended"
    rm "$dir.ended"
    if [ "$code" -eq 0 ]; then finished "$name" "$dir" "$seconds"; else failed=("$code" "$name" "$command"); fi
  done
  [ ${#failed[@]} -eq 0 ] || stopped "${failed[@]}"
}

render() { # NAME COUNT SPLIT DRAW ARGUMENTS...: draws of one seed share no image
  begin "render $1 words" "$out/words/$1" clear \
    "$python" launch/render_words.py --out="$out/words/$1" --num="$2" --format=lmdb --split="$3" \
    --seed="$((3 * seed + $4))" "${@:5}"
}
depends_on launch/render_words.py rcmstr_jax/data/synthetic
render unlabelled "$num_unlabelled" train 0 "${world[@]}" --sheet="$out/words.png"
render labelled "$num_labelled" train 1 "${world[@]}"
render test "$num_test" test 2 "${world[@]}"
render real_looking "$num_real_looking" all 900000 "${real_looking[@]}"
together

depends_on configs/pretrain rcmstr_jax/augment rcmstr_jax/models rcmstr_jax/ssl rcmstr_jax/training
# Two devices of one core each are faster than one device of two: small operations do not divide well.
phase "pretrain" "$out/pretrain" keep \
  env XLA_FLAGS="--xla_force_host_platform_device_count=2 ${XLA_FLAGS:-}" \
  "$python" launch/pretrain.py "${pretrain[@]}" --workdir="$out/pretrain" --config.seed="$seed" \
  --config.data.source="lmdb:$out/words/unlabelled"

depends_on configs/evaluate rcmstr_jax/data rcmstr_jax/evaluation
evaluate() { # NAME PRETRAINED CONFIG...
  begin "evaluate $1" "$out/$1" clear \
    "$python" launch/evaluate.py "${@:3}" --workdir="$out/$1" --pretrained="$2" \
    --config.seed="$seed" --config.train.source="lmdb:$out/words/labelled" \
    --config.benchmarks="$out/words/test"
}
evaluate frozen_random_init "random:$out/pretrain" "${frozen[@]}"
evaluate frozen_pretrained "$out/pretrain" "${frozen[@]}"
together
evaluate finetuned_random_init "random:$out/pretrain" "${finetuned[@]}"
evaluate finetuned_pretrained "$out/pretrain" "${finetuned[@]}"
together

read_real_looking() { # NAME RECOGNISER
  begin "read with $1" "$out/$1" clear \
    "$python" launch/evaluate.py --config=score --workdir="$out/$1" --pretrained="$2" \
    --config.benchmarks="$out/words/real_looking"
}
read_real_looking trained_here "$out/finetuned_pretrained"
read_real_looking compact compact
together
sheet="$out/compact.png"
"$python" launch/report.py "$out/compact" --sheet="$sheet" >/dev/null

echo
"$python" launch/compare.py --runs="$out" --out="$out/results.json"
echo
echo "words that look like crops of photographs, read with trained_here (first) and with the packaged compact (second):"
"$python" launch/compare.py --first="$out/trained_here" --second="$out/compact"
echo
echo "pictures:"
find "$out" -name '*.png' | sort | sed 's/^/  /'
echo "time, installation $installed s apart:"
printf '%s\n' "${timings[@]}" | sed 's/^/  /' | expand -t 40
echo "results: $out/results.json ($((SECONDS - installed)) s)"
