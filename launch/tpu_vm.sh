#!/usr/bin/env bash
# Starts a run on every worker of a Cloud TPU slice, or resumes it: the same command does both.
#
#   PROJECT=... ZONE=... TPU=... launch/tpu_vm.sh --config configs/imagenet_googlenet.py --workdir gs://BUCKET/runs/one \
#       --config.platform=tpu --config.data.data_dir=/mnt/imagenet
#
# Each worker gets the same commit of this repository, an environment, and the same flags. JAX finds the workers itself.
set -euo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

for name in PROJECT ZONE TPU; do
  [ -n "${!name:-}" ] || fail "$name is not set: PROJECT=... ZONE=... TPU=... launch/tpu_vm.sh --config FILE --workdir DIR."
done
[ $# -gt 0 ] || fail "no flags of train.py: launch/tpu_vm.sh --config FILE --workdir gs://BUCKET/DIR."
command -v gcloud > /dev/null || fail "gcloud was not found: install the Google Cloud CLI."
REPOSITORY=${REPOSITORY:-$(git config --get remote.origin.url)} || fail "git knows no remote named origin: set REPOSITORY."
COMMIT=${COMMIT:-$(git rev-parse HEAD)} || fail "git knows no commit here: set COMMIT."
FLAGS=$(printf '%q ' "$@")

on_all_workers() {
  gcloud compute tpus tpu-vm ssh "$TPU" --project "$PROJECT" --zone "$ZONE" --worker=all --command "$1"
}

on_all_workers "
  set -e
  [ -d inception_jax ] || git clone --quiet '$REPOSITORY' inception_jax
  cd inception_jax
  git fetch --quiet && git checkout --quiet '$COMMIT'
  [ -d .venv ] || python3 -m venv .venv
  .venv/bin/pip install --quiet --editable '.[tpu,gcs]'
"
# Detached, so that the run outlives this terminal. Each worker writes its own log.
on_all_workers "
  cd inception_jax
  nohup .venv/bin/python -u train.py $FLAGS > run.log 2>&1 < /dev/null &
  sleep 5; tail -n 2 run.log
"
echo "Watch: gcloud compute tpus tpu-vm ssh $TPU --project $PROJECT --zone $ZONE --worker=0 --command 'tail -f inception_jax/run.log'"
