#!/usr/bin/env bash
# Starts N processes of one run on this machine, each with CPU devices of its own: what a pod does, in small.
#
#   launch/local.sh 2 --config configs/digits.py --workdir runs/two
#
# DEVICES: of each process (4). PORT: of process 0 (8476). Ctrl-C reaches all of them; each saves and stops.
set -uo pipefail
processes=$1
shift
export JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=${DEVICES:-4} ${XLA_FLAGS:-}"
export JAX_COORDINATOR_ADDRESS=127.0.0.1:${PORT:-8476} JAX_NUM_PROCESSES=$processes
pids=()
for ((process = 0; process < processes; process++)); do
  JAX_PROCESS_ID=$process "${PYTHON:-python}" -u "${PROGRAM:-train.py}" "$@" &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
done
exit "$code"
