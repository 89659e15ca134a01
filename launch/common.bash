# shellcheck shell=bash
# What the launch scripts share; sourced, not run. Nothing in them needs more than the
# Bash 3.2 that Macs have.

# Prints a command so that pasting it runs it.
quote() {
  local word line=""
  for word in "$@"; do
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./-]*)
        word=$(printf '%s' "$word" | sed "s/'/'\\\\''/g")
        line+=" '$word'"
        ;;
      *) line+=" $word" ;;
    esac
  done
  printf '%s\n' "${line# }"
}

# Runs a command, or prints it under --dry-run.
run() { if [ "$dry" = yes ]; then quote "$@"; else "$@"; fi; }

# As run, but in place of this shell: signals reach the command, its exit code is ours.
become() { if [ "$dry" = yes ]; then quote "$@"; else exec "$@"; fi; }

# Says something in between, as a comment where commands are printed.
say() { if [ "$dry" = yes ]; then printf '# %s\n' "$*"; else printf '%s\n' "$*" >&2; fi; }

fail() {
  printf '%s: %s See --help.\n' "${0##*/}" "$*" >&2
  exit 2
}

# need NAME "of the TPU VM": refuses to go on without it.
need() { [ -n "${!1:-}" ] || fail "$1 is not set: the $2."; }

# Splits the command line: --help, --dry-run and the actions of the script ($1, such as
# "--list --delete") come first, what follows is for jaxkd.main.
parse() {
  local actions=" $1 "
  shift
  dry=no action=run
  while [ $# -gt 0 ]; do
    case "$1" in
      -h | --help) usage && exit 0 ;;
      --dry-run) dry=yes ;;
      --*) case "$actions" in *" $1 "*) action=${1#--} ;; *) break ;; esac ;;
      *) break ;;
    esac
    shift
  done
  # shellcheck disable=SC2034  # for the script that sources this
  arguments=("$@")
  if [ "$action" = run ]; then
    [ $# -gt 0 ] || fail "the arguments of jaxkd.main are missing."
  else
    [ $# -eq 0 ] || fail "--$action takes no argument, got $1."
  fi
}

# jaxkd writes through the file system: "gs://..." would become a local folder "gs:".
refuse_bucket_paths() {
  local word
  for word in "$@"; do
    case "$word" in
      --workdir=gs://* | gs://*)
        fail "$word: buckets are used as mounted folders, --workdir=/mnt/jaxkd/..."
        ;;
    esac
  done
}
