#!/usr/bin/env bash
# Asks for a TPU through a queued resource, waits for it, runs, and asks again whenever it
# is taken away, until the run has finished.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source=launch/common.bash
source "$here/common.bash"
# shellcheck source=launch/tpu.bash
source "$here/tpu.bash"

usage() {
  cat <<'TEXT'
Usage: NAME=... ZONE=... BUCKET=... launch/tpu_queued.sh [--dry-run] ARGUMENTS OF jaxkd.main
       NAME=... ZONE=... launch/tpu_queued.sh [--dry-run] --delete
  NAME       of the queued resource
  ZONE       of Google Cloud
  BUCKET     name of a bucket, mounted as /mnt/jaxkd. The --workdir has to be in there: a
             TPU that is created again starts with an empty disk
  PROJECT    of Google Cloud (default: gcloud's own)
  NODE       name of the TPU VM (default: NAME)
  TYPE       accelerator type (default v5litepod-8)
  VERSION    runtime version (default v2-alpha-tpuv5-lite)
  SPOT       no for a machine that is not preemptible (default yes)
  RETRIES    how often to begin again before giving up (default 20)
  POLL       seconds between two looks at the state (default 60)
  WHEN_DONE  delete: gives the TPU back when the run has finished (default: keeps it, and
             prints how to delete it)
  PYTHON     version to run (default 3.12)
It can be stopped and started again: it takes up what it finds. Code 75 of the run means
"stopped and saved", 2 "wrong arguments": the first is tried again, the second is not.
TEXT
}

parse "--delete" "$@"
cd "$here/.."
need NAME "name of the queued resource"
need ZONE "zone of the TPU"
node=${NODE:-$NAME}
where=(--zone "$ZONE")
if [ -n "${PROJECT:-}" ]; then where+=(--project "$PROJECT"); fi
queue=(gcloud compute tpus queued-resources)
retries=${RETRIES:-20}
poll=${POLL:-60}
tries=0

create() {
  local options=(--node-id "$node" --accelerator-type "${TYPE:-v5litepod-8}")
  options+=(--runtime-version "${VERSION:-v2-alpha-tpuv5-lite}")
  if [ "${SPOT:-yes}" = yes ]; then options+=(--spot); fi
  run "${queue[@]}" create "$NAME" "${where[@]}" "${options[@]}"
}

# --force deletes the TPU VM, too, if there still is one.
deletion=("${queue[@]}" delete "$NAME" "${where[@]}" --force --quiet)

# NONE only where Google Cloud says so: an error must not look like a missing request.
state() {
  local answer
  if answer=$("${queue[@]}" describe "$NAME" "${where[@]}" \
    --format='value(state.state)' 2>&1); then
    printf '%s\n' "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo NONE
  else
    printf '%s\n' "$answer" >&2
    echo UNKNOWN
  fi
}

# again CODE WHY: counts a new beginning, and ends with the code when there were too many.
again() {
  tries=$((tries + 1))
  if [ "$tries" -gt "$retries" ]; then
    say "$2; giving up after $retries retries. $NAME may still exist: see --delete"
    exit "$1"
  fi
  say "$2; beginning again ($tries of $retries)"
}

finish() {
  say "the run has finished"
  if [ "${WHEN_DONE:-keep}" = delete ]; then
    "${deletion[@]}"
  else
    say "to give the TPU back: $(quote "${deletion[@]}")"
  fi
  exit 0
}

# Where a TPU is taken away, the workers end with any code, and before the state tells.
run_once() {
  local code=0
  { prepare_workers && start_workers; } || code=$?
  case $code in
    0) finish ;;
    2) exit 2 ;;
  esac
  sleep "$poll"
  case "$code,$(state)" in
    75,* | 255,*) again "$code" "the run was stopped, or the connection lost ($code)" ;;
    *,ACTIVE)
      say "the run failed with code $code, and $NAME is still there: see --delete"
      exit "$code"
      ;;
  esac
}

babysit() {
  local now seen=""
  while true; do
    now=$(state)
    if [ "$now" != "$seen" ]; then say "$NAME: $now"; fi
    seen=$now
    case $now in
      NONE) create ;;
      ACTIVE) run_once ;;
      SUSPENDED | FAILED)
        again 75 "$NAME is $now"
        "${deletion[@]}"
        ;;
      UNKNOWN)
        again 1 "the state of $NAME cannot be read"
        sleep "$poll"
        ;;
      *) sleep "$poll" ;; # waiting, provisioning, suspending, deleting
    esac
  done
}

plan() {
  quote cd "$PWD"
  create
  say "every $poll s until the state is ACTIVE:"
  quote "${queue[@]}" describe "$NAME" "${where[@]}" --format='value(state.state)'
  prepare_workers
  start_workers
  say "on SUSPENDED or FAILED, at most $retries times, this, and then from the top:"
  say "$(quote "${deletion[@]}")"
  if [ "${WHEN_DONE:-keep}" = delete ]; then
    say "when the run has finished:"
    say "$(quote "${deletion[@]}")"
  fi
}

if [ "$action" = delete ]; then
  run "${deletion[@]}"
  exit 0
fi
need BUCKET "name of the bucket that keeps the workdir"
refuse_bucket_paths "${arguments[@]}"
case " ${arguments[*]} " in
  *" --workdir=/mnt/jaxkd/"*) ;;
  *) fail "wanted --workdir=/mnt/jaxkd/..., in the bucket: a new TPU has an empty disk." ;;
esac
if [ "$dry" = yes ]; then plan; else babysit; fi
