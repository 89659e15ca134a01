#!/usr/bin/env bash
# Sets up a virtual environment on a box with GPUs (or none) and starts a run.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: [EXTRA=cuda13] [VENV=.venv] launch/gpu.sh [--dry-run] ARGUMENTS OF jaxkd.main
  EXTRA  what to install beside jaxkd: cuda13 (default), cuda12, or none for CPU
  VENV   the virtual environment, made if missing
TEXT
}

run() { if [ "$dry" = yes ]; then printf '+ %s\n' "$*"; else "$@"; fi; }

dry=no
case "${1:-}" in
  -h | --help | "") usage; exit 0 ;;
  --dry-run) dry=yes; shift ;;
esac

cd "$(dirname "$0")/.."
extra="${EXTRA:-cuda13}"
venv="${VENV:-.venv}"
package='.'
[ "$extra" = none ] || package=".[$extra]"

[ -d "$venv" ] || run python3 -m venv "$venv"
run "$venv/bin/pip" install --quiet -e "$package"
run "$venv/bin/python" -m jaxkd.main "$@"
