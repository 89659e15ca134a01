# shellcheck shell=bash
# What tpu_vm.sh and tpu_queued.sh do on the workers of a TPU VM; sourced, not run.
# The script sets node, where (zone and project, as options) and arguments.
# shellcheck disable=SC2154

vm=(gcloud compute tpus tpu-vm)

# All workers see the bucket as /mnt/jaxkd. Orbax commits a checkpoint by renaming its
# folder, which gcsfuse refuses by default; without the cache of names, what one worker
# writes would stay unseen by the others for a minute.
mount_command() {
  local folder=/mnt/jaxkd
  local options="--implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0"
  printf '%s' "mountpoint -q $folder || { " \
    "command -v gcsfuse >/dev/null || sudo apt-get install -qq -y gcsfuse; " \
    "sudo mkdir -p $folder && sudo chown \$(id -u) $folder && " \
    "gcsfuse $options $(quote "$BUCKET") $folder; }"
}

# The images come with a Python that is older than jaxkd wants: uv brings a newer one.
install_command() {
  printf '%s' "mkdir -p jaxkd && tar -xzf jaxkd.tar.gz -C jaxkd && " \
    "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --user uv && " \
    "python3 -m uv venv -q --allow-existing --python $(quote "${PYTHON:-3.12}") venv && " \
    "python3 -m uv pip install -q --python venv/bin/python -e 'jaxkd[tpu]'"
}

on_all_workers() {
  run "${vm[@]}" ssh "$node" "${where[@]}" --worker=all --command "$1"
}

# Copies what is committed, and installs it. Chained, because "set -e" sleeps where a
# caller looks at the exit code.
prepare_workers() {
  local archive=build/jaxkd-$node.tar.gz
  run mkdir -p build &&
    run git archive --format=tar.gz --output="$archive" HEAD &&
    run "${vm[@]}" scp "$archive" "$node:jaxkd.tar.gz" "${where[@]}" --worker=all &&
    on_all_workers "$(install_command)" || return
  if [ -n "${BUCKET:-}" ]; then on_all_workers "$(mount_command)"; fi
}

# The TPU's own metadata tell every worker who the others are.
start_workers() {
  local main=../venv/bin/python
  on_all_workers "cd jaxkd && $main -m jaxkd.main --distributed $(quote "${arguments[@]}")"
}
