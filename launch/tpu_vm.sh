#!/usr/bin/env bash
# Creates a Cloud TPU VM (or takes the one that exists), copies this checkout, installs it
# on every worker and starts the run on all of them.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=launch/common.bash
source "$here/common.bash"
# shellcheck source=launch/tpu.bash
source "$here/tpu.bash"

usage() {
  cat <<'TEXT'
Usage: NAME=... ZONE=... [BUCKET=...] launch/tpu_vm.sh [--dry-run] ARGUMENTS OF jaxkd.main
       NAME=... ZONE=... launch/tpu_vm.sh [--dry-run] --delete
  NAME     of the TPU VM
  ZONE     of Google Cloud
  PROJECT  of Google Cloud (default: gcloud's own)
  TYPE     accelerator type (default v5litepod-8)
  VERSION  runtime version (default v2-alpha-tpuv5-lite)
  SPOT     yes for a preemptible machine
  BUCKET   name of a bucket, mounted as /mnt/jaxkd: then --workdir=/mnt/jaxkd/NAME.
           Several hosts (beyond v5litepod-8) need it: they must share the workdir
  PYTHON   version to run (default 3.12)
Only what is committed is copied. Running it again resumes; a run that is stopped saves
and ends with code 75. The run ends with this terminal: use tmux, or tpu_queued.sh.
TEXT
}

parse "--delete" "$@"
cd "$here/.."
need NAME "name of the TPU VM"
need ZONE "zone of the TPU VM"
node=$NAME
where=(--zone "$ZONE")
if [ -n "${PROJECT:-}" ]; then where+=(--project "$PROJECT"); fi

if [ "$action" = delete ]; then
  run "${vm[@]}" delete "$NAME" "${where[@]}" --quiet
  exit 0
fi

refuse_bucket_paths "${arguments[@]}"
if [ "$dry" = yes ]; then quote cd "$PWD"; fi
say "taking the TPU VM $NAME, or creating it if there is none"
if [ "$dry" = yes ] || ! "${vm[@]}" describe "$NAME" "${where[@]}" >/dev/null 2>&1; then
  options=(--accelerator-type "${TYPE:-v5litepod-8}")
  options+=(--version "${VERSION:-v2-alpha-tpuv5-lite}")
  if [ "${SPOT:-no}" = yes ]; then options+=(--spot); fi
  run "${vm[@]}" create "$NAME" "${where[@]}" "${options[@]}"
fi
prepare_workers
start_workers
