#!/usr/bin/env bash
# Starts N processes of one run on this machine, each with CPU devices of its own, as a small stand-in for a pod.
#
#   launch/local.sh 2 --config configs/digits.py --workdir runs/two
#
# DEVICES: of each process (4). PORT: of process 0 (8476). PYTHON: .venv/bin/python of this repository, or else that of an
# activated environment. PROGRAM: train.py of this repository. Ctrl-C reaches all of them; each saves and stops.
set -uo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

is_count() { # 1 ... 9999, without letters and leading zeros
  [[ "$1" =~ ^[1-9][0-9]{0,3}$ ]]
}

usage="launch/local.sh PROCESSES --config FILE --workdir DIR [FLAGS of train.py]"
[ $# -gt 0 ] || fail "it is not said how many processes to start: $usage"
is_count "$1" || fail "PROCESSES is '$1'; it must be a number from 1: $usage"
processes=$1
shift
devices=${DEVICES:-4}
is_count "$devices" || fail "DEVICES is '$devices'; it must be a number from 1."
port=${PORT:-8476}
[[ "$port" =~ ^[1-9][0-9]{0,4}$ ]] && [ "$port" -lt 65536 ] || fail "PORT is '$port'; it must be a number from 1 to 65535."

here=${BASH_SOURCE[0]%/*}
[ "$here" != "${BASH_SOURCE[0]}" ] || here=.
root=$(cd -- "$here/.." && pwd) || fail "the folder of this script cannot be entered."
program=${PROGRAM:-$root/train.py}
[ -f "$program" ] || fail "PROGRAM is '$program', which is no file."
python=${PYTHON:-}
for candidate in "$root/.venv/bin/python" python3 python; do
  [ -n "$python" ] || ! command -v "$candidate" > /dev/null || python=$candidate
done
[ -n "$python" ] || fail "no Python was found: make the environment ('make train' in $root does it), or set PYTHON."
command -v "$python" > /dev/null || fail "PYTHON is '$python', which cannot be run."
# By the folder of the program as well, so that the environment need not have installed this repository.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import sys; from importlib.util import find_spec as has; sys.exit(not (has("inception_jax") and has("jax")))' ||
  fail "'$python' cannot import inception_jax and jax: make the environment ('make train' in $root does it), activate it, or set PYTHON."

export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices ${XLA_FLAGS:-}"
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes
# Each process has a group of its own, so that a signal comes once: a second one would end it without saving.
set -m
pids=()
signalled=
trap 'signalled=1; kill -INT "${pids[@]}" 2> /dev/null' INT
trap 'signalled=1; kill -TERM "${pids[@]}" 2> /dev/null' TERM
for ((process = 0; process < processes; process++)); do
  JAX_PROCESS_ID=$process "$python" -u "$program" "$@" &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do
  signalled=1
  while [ -n "$signalled" ]; do # a signal ends a wait, not the process
    signalled=
    wait "$pid"
    status=$?
  done
  [ "$status" -eq 0 ] || code=$status
done
exit "$code"
