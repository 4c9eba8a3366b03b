#!/usr/bin/env bash
# Pretraining on a Cloud TPU slice of any number of hosts, from this machine; needs gcloud, logged in.
#
#   bash launch/tpu_pod.sh [--dry_run] ACTION [FLAGS OF launch/pretrain.py]
#
#   create            makes the slice
#   push              copies this checkout's HEAD to every host and installs it
#   run FLAGS         starts launch/pretrain.py on every host, detached; needs --config and --workdir
#   logs              follows the log of host 0
#   stop              SIGTERM to every host: all save and leave together
#   resume FLAGS      a slice that was taken away is made anew and filled; then as run, which continues
#   fetch DIR         copies a folder of host 0 (the workdir) here
#   delete            ends the slice, and its costs
#
# --dry_run prints the commands and runs none. Environment:
#   TPU_NAME  name of the slice (default: rcmstr)
#   ZONE      required, europe-west4-b for example
#   TYPE      required: accelerator and size, v5p-16 for example
#   RUNTIME   software of the hosts (default: v2-alpha-tpuv5)
#   SPOT      1: cheaper, and may be taken away at any time
#   NFS       SERVER:/SHARE, mounted on every host as /mnt/runs. Slices of several hosts need it for
#             --workdir: all hosts read the checkpoints, and see there how far the others are.
set -euo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; }
fail() {
  printf 'tpu_pod.sh: %s\n' "$1" >&2
  exit 2
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

dry_run=""
[ "${1:-}" != --dry_run ] || { dry_run=1; shift; }
action="${1:-}"
[ $# -eq 0 ] || shift
case "$action" in
  create | push | run | logs | stop | resume | fetch | delete) ;;
  "") fail "no action; one of create, push, run, logs, stop, resume, fetch, delete" ;;
  *) fail "unknown action '$action'; one of create, push, run, logs, stop, resume, fetch, delete" ;;
esac
: "${TPU_NAME:=rcmstr}" "${RUNTIME:=v2-alpha-tpuv5}" "${SPOT:=}" "${NFS:=}"
[ -n "${ZONE:-}" ] || fail "ZONE is not set; for example ZONE=europe-west4-b"
[ -n "${TYPE:-}" ] || fail "TYPE is not set; for example TYPE=v5p-16"
case "$SPOT" in "" | 1) ;; *) fail "SPOT=$SPOT; set it to 1, or leave it out" ;; esac
case "$NFS" in "" | *:/*) ;; *) fail "NFS=$NFS; write SERVER:/SHARE" ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

do_or_show() {
  if [ -n "$dry_run" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { # VERB ARGUMENTS...: of this slice
  do_or_show gcloud compute tpus tpu-vm "$1" "$TPU_NAME" --zone="$ZONE" "${@:2}"
}

on() { # WHICH COMMAND: on host WHICH, or on all
  tpu ssh --worker="$1" --command="$2"
}

create() {
  local more=()
  [ -z "$SPOT" ] || more=(--spot)
  tpu create --accelerator-type="$TYPE" --version="$RUNTIME" "${more[@]}"
}

push() {
  local archive=/tmp/rcmstr_jax.tar.gz
  do_or_show git archive --format=tar.gz --output="$archive" HEAD
  do_or_show gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:" --zone="$ZONE" --worker=all
  on all 'mkdir -p rcmstr_jax && tar -xzf rcmstr_jax.tar.gz -C rcmstr_jax'
  on all 'sudo apt-get update -qq && sudo apt-get install -y -qq python3.11-venv nfs-common'
  on all "cd rcmstr_jax && python3.11 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]' -c constraints.txt"
  [ -z "$NFS" ] || on all "mountpoint -q /mnt/runs || { sudo mkdir -p /mnt/runs && sudo mount $NFS /mnt/runs && sudo chmod 777 /mnt/runs; }"
}

run() {
  local given
  case " $* " in *" --config="*) ;; *) fail "$action: no --config=FILE.py given" ;; esac
  case " $* " in *" --workdir="*) ;; *) fail "$action: no --workdir=DIR given; /mnt/runs/NAME where NFS is set" ;; esac
  given=$(printf '%q ' "$@")
  # The process outlives the connection; its number is kept for stop.
  on all "cd rcmstr_jax && { nohup .venv/bin/python launch/pretrain.py --distributed=auto $given>../run.log 2>&1 </dev/null & echo \$! >../run.pid; }"
}

state() { # READY, PREEMPTED, ...; nothing where there is no such slice
  gcloud compute tpus tpu-vm describe "$TPU_NAME" --zone="$ZONE" --format='value(state)' 2>/dev/null || true
}

resume() {
  local now=PREEMPTED # what a dry run supposes
  [ -n "$dry_run" ] || now=$(state)
  if [ "$now" != READY ]; then
    [ -z "$now" ] || tpu delete --quiet
    create
    push
  fi
  run "$@"
}

case "$action" in
  create) create ;;
  push) push ;;
  run) run "$@" ;;
  logs) on 0 'tail -n 100 -F run.log' ;;
  stop) on all 'kill -TERM $(cat run.pid)' ;;
  resume) resume "$@" ;;
  fetch)
    [ $# -eq 1 ] || fail "fetch takes one folder of host 0; got $#: $*"
    do_or_show gcloud compute tpus tpu-vm scp --recurse "$TPU_NAME:$1" . --zone="$ZONE" --worker=0
    ;;
  delete) tpu delete --quiet ;;
esac
