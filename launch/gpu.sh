#!/usr/bin/env bash
# Sets up a virtual environment on a box with GPUs (or none) and starts a run.
set -euo pipefail
# shellcheck source=launch/common.bash
source "$(dirname "$0")/common.bash"

usage() {
  cat <<'TEXT'
Usage: [EXTRA=cuda13] [VENV=.venv] launch/gpu.sh [--dry-run] ARGUMENTS OF jaxkd.main
  EXTRA   what to install beside jaxkd: cuda13 (default), cuda12, or none for CPU
  VENV    the virtual environment, made if missing (default .venv)
  DATA    folder of data sets; becomes ./data, where configurations look, if there is none
  MEMORY  part of each GPU's memory that JAX takes at once (default 0.9; JAX's own is
          0.75). Less where others use the GPU: MEMORY=0.4
Running it again resumes. --dry-run prints the commands.
TEXT
}

parse "" "$@"
cd "$(dirname "$0")/.."
venv="${VENV:-.venv}"
package=".[${EXTRA:-cuda13}]"
command=("$venv/bin/python" -m jaxkd.main "${arguments[@]}")
if [ "${EXTRA:-}" = none ]; then
  package=.
else
  command=(env XLA_PYTHON_CLIENT_MEM_FRACTION="${MEMORY:-0.9}" "${command[@]}")
fi

if [ "$dry" = yes ]; then quote cd "$PWD"; fi
if [ ! -d "$venv" ]; then run python3 -m venv "$venv"; fi
run "$venv/bin/pip" install --quiet -e "$package"
if [ -n "${DATA:-}" ] && [ ! -e data ]; then run ln -s "$DATA" data; fi
become "${command[@]}"
