#!/usr/bin/env bash
# Creates a Cloud TPU VM (or takes the one that exists), copies this checkout, installs it
# on every worker and starts the run on all of them.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: NAME=... ZONE=... [TYPE=...] launch/tpu_vm.sh [--dry-run] ARGUMENTS OF jaxkd.main
       NAME=... ZONE=... launch/tpu_vm.sh [--dry-run] --delete
  NAME     of the TPU VM
  ZONE     of Google Cloud
  TYPE     accelerator type (default v5litepod-8)
  VERSION  runtime version (default v2-alpha-tpuv5-lite)
  SPOT     yes for a preemptible machine
TEXT
}

run() { if [ "$dry" = yes ]; then printf '+ %s\n' "$*"; else "$@"; fi; }

dry=no
case "${1:-}" in
  -h | --help | "") usage; exit 0 ;;
  --dry-run) dry=yes; shift ;;
esac

cd "$(dirname "$0")/.."
: "${NAME:?set NAME to the name of the TPU VM}"
: "${ZONE:?set ZONE to its zone}"
vm=(gcloud compute tpus tpu-vm)
where=("$NAME" --zone "$ZONE")

if [ "${1:-}" = --delete ]; then
  run "${vm[@]}" delete "${where[@]}" --quiet
  exit 0
fi

if [ "$dry" = yes ] || ! "${vm[@]}" describe "${where[@]}" >/dev/null 2>&1; then
  spot=()
  [ "${SPOT:-no}" = yes ] && spot=(--spot)
  run "${vm[@]}" create "${where[@]}" --accelerator-type "${TYPE:-v5litepod-8}" \
    --version "${VERSION:-v2-alpha-tpuv5-lite}" "${spot[@]}"
fi

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
run git archive --format=tar.gz --output="$archive" HEAD
run "${vm[@]}" scp "$archive" "$NAME:jaxkd.tar.gz" --zone "$ZONE" --worker=all
run "${vm[@]}" ssh "${where[@]}" --worker=all --command \
  "mkdir -p jaxkd && tar -xzf jaxkd.tar.gz -C jaxkd && pip install -q -e 'jaxkd[tpu]'"
printf -v arguments ' %q' "$@"
run "${vm[@]}" ssh "${where[@]}" --worker=all --command \
  "cd jaxkd && python3 -m jaxkd.main --distributed$arguments"
