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
pretrain=(--config=configs/pretrain/mini.py)
frozen=(--config=configs/evaluate/frozen_ctc.py:mini)
finetuned=(--config=configs/evaluate/finetune_ctc.py:mini)
# --------------------------------------------------------------------------------------------------
case "$size" in
  full) ;;
  test)
    num_unlabelled=64 num_labelled=40 num_test=24
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
trap 'echo "$resume" >&2; exit 130' INT

stopped() { # CODE NAME COMMAND...; 75 is what training leaves with when it was asked to stop
  [ "$1" -ne 75 ] || fail "$resume"
  fail "$2 failed (exit $1); its command was: ${*:3}"
}

depends_on() { # PATHS...: from here on, another content of these files makes a phase stale
  local sum
  sum=$(find "$@" -name '*.py' -o -name '*.json' | LC_ALL=C sort | xargs cat | cksum)
  chain+="code $sum"$'\n'
}

# phase NAME DIR keep|clear COMMAND...: runs the command unless it already finished, unchanged, in DIR.
# An interrupted DIR is continued (keep) or made anew (clear); a stale one is always made anew.
phase() {
  local name="$1" dir="$2" partial="$3" start=$SECONDS
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
    return
  fi
  if [ "$state" = stale ] || { [ "$state" = partial ] && [ "$partial" = clear ]; }; then
    rm -rf "$dir"
  fi
  rm -f "$done_mark"
  mkdir -p "$(dirname "$dir")"
  printf '%s\n' "${chain%$'\n'}" >"$key"
  echo "== $name"
  "$@" || stopped $? "$name" "$@"
  echo $((SECONDS - start)) >"$done_mark"
  timings+=("$name"$'\t'"$((SECONDS - start)) s")
  echo "== $name: $((SECONDS - start)) s"
}

render() { # NAME COUNT SPLIT DRAW ARGUMENTS...: draws of one seed share no image
  phase "render $1 words" "$out/words/$1" clear \
    "$python" launch/render_words.py --out="$out/words/$1" --num="$2" --format=lmdb --split="$3" \
    --seed="$((3 * seed + $4))" "${world[@]}" "${@:5}"
}
depends_on launch/render_words.py rcmstr_jax/data/synthetic
render unlabelled "$num_unlabelled" train 0 --sheet="$out/words.png"
render labelled "$num_labelled" train 1
render test "$num_test" test 2

depends_on configs/pretrain rcmstr_jax/augment rcmstr_jax/models rcmstr_jax/ssl rcmstr_jax/training
# Two devices of one core each are faster than one device of two: small operations do not divide well.
phase "pretrain" "$out/pretrain" keep \
  env XLA_FLAGS="--xla_force_host_platform_device_count=2 ${XLA_FLAGS:-}" \
  "$python" launch/pretrain.py "${pretrain[@]}" --workdir="$out/pretrain" --config.seed="$seed" \
  --config.data.source="lmdb:$out/words/unlabelled"

depends_on configs/evaluate rcmstr_jax/data rcmstr_jax/evaluation
evaluate() { # NAME PRETRAINED CONFIG...
  phase "evaluate $1" "$out/$1" clear \
    "$python" launch/evaluate.py "${@:3}" --workdir="$out/$1" --pretrained="$2" \
    --config.seed="$seed" --config.train.source="lmdb:$out/words/labelled" \
    --config.benchmarks="$out/words/test"
}
evaluate frozen_random_init "random:$out/pretrain" "${frozen[@]}"
evaluate frozen_pretrained "$out/pretrain" "${frozen[@]}"
evaluate finetuned_random_init "random:$out/pretrain" "${finetuned[@]}"
evaluate finetuned_pretrained "$out/pretrain" "${finetuned[@]}"

echo
"$python" launch/compare.py --runs="$out" --out="$out/results.json"
echo
echo "pictures:"
find "$out" -name '*.png' | sort | sed 's/^/  /'
echo "time, installation $installed s apart:"
printf '%s\n' "${timings[@]}" | sed 's/^/  /' | expand -t 40
echo "results: $out/results.json ($((SECONDS - installed)) s)"
