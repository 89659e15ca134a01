#!/usr/bin/env bash
# Runs on a GKE cluster through xpk: TPU slices, or nodes with GPUs.
set -euo pipefail
# shellcheck source=launch/common.bash
source "$(dirname "$0")/common.bash"

usage() {
  cat <<'TEXT'
Usage: CLUSTER=... WORKLOAD=... IMAGE=... launch/xpk.sh [--dry-run] ARGUMENTS OF jaxkd.main
       CLUSTER=... launch/xpk.sh [--dry-run] --list
       CLUSTER=... WORKLOAD=... launch/xpk.sh [--dry-run] --delete
       IMAGE=... launch/xpk.sh [--dry-run] --build
  CLUSTER   of xpk
  WORKLOAD  name of the run on the cluster
  IMAGE     that holds jaxkd: --build makes it from launch/Dockerfile, and pushes it
  ZONE      of the cluster, and
  PROJECT   of Google Cloud (default: gcloud's own)
  TYPE      of TPU slice (default v5litepod-16)
  SLICES    how many (default 1)
  GPU       type of GPU node instead of a TPU, such as h100-80gb-8
  NODES     how many of those (default 1)
  EXTRA     of jaxkd, for --build (default: tpu, or cuda13 with GPU)
  RESTARTS  of a run that was stopped and saved, code 75 (default 50)
  GRACE     seconds that a stopped run has to save (default 300)
The --workdir has to be in storage that every node mounts: see "xpk storage attach".
TEXT
}

parse "--list --delete --build" "$@"
cd "$(dirname "$0")/.."

if [ "$action" = build ]; then
  need IMAGE "name of the image to build and push"
  # TPU devices on a node belong to root.
  user=jaxkd extra=${EXTRA:-cuda13}
  if [ -z "${GPU:-}" ]; then user=root extra=${EXTRA:-tpu}; fi
  if [ "$dry" = yes ]; then quote cd "$PWD"; fi
  run docker build --file launch/Dockerfile --build-arg "EXTRA=$extra" \
    --build-arg "RUN_AS=$user" --tag "$IMAGE" .
  run docker push "$IMAGE"
  exit 0
fi

need CLUSTER "name of the cluster"
where=(--cluster "$CLUSTER")
if [ -n "${ZONE:-}" ]; then where+=(--zone "$ZONE"); fi
if [ -n "${PROJECT:-}" ]; then where+=(--project "$PROJECT"); fi

if [ "$action" = list ]; then
  run xpk workload list "${where[@]}"
  exit 0
fi
# Without a name, xpk would delete every workload of the cluster.
need WORKLOAD "name of the workload"
if [ "$action" = delete ]; then
  run xpk workload delete "${where[@]}" --workload "$WORKLOAD"
  exit 0
fi

need IMAGE "image that holds jaxkd"
refuse_bucket_paths "${arguments[@]}"
# exec: the signal to stop, which xpk passes to its child, has to reach Python.
main="exec python -m jaxkd.main --distributed"
if [ -n "${GPU:-}" ]; then
  device=(--device-type "$GPU" --num-nodes "${NODES:-1}")
  # JAX detects TPU slices by itself; to nodes with GPUs, xpk says it in the environment.
  # shellcheck disable=SC2016
  main+=' --coordinator=$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'
  # shellcheck disable=SC2016
  main+=' --num_processes=$NNODES --process_id=$NODE_RANK'
else
  device=(--tpu-type "${TYPE:-v5litepod-16}" --num-slices "${SLICES:-1}")
fi
run xpk workload create "${where[@]}" --workload "$WORKLOAD" --docker-image "$IMAGE" \
  "${device[@]}" --max-restarts "${RESTARTS:-50}" --restart-on-exit-codes 75 \
  --termination-grace-period-seconds "${GRACE:-300}" \
  --command "$main $(quote "${arguments[@]}")"
