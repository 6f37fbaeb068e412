# What the scripts share; sourced, not run.
# shellcheck shell=bash
set -euo pipefail

# shellcheck disable=SC2034 # used by those who source this
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# say TEXT...: one line for people, on standard error: standard output belongs to the answer.
say() {
  printf 'tropilla: %s\n' "$*" >&2
  progress_due=$((SECONDS + 10))
}

# die SENTENCE...: what went wrong and what to do about it; status 2, as the program itself does.
die() {
  say "$*"
  exit 2
}

# progress TEXT...: how far something is. A terminal shows one line, which the next one replaces; elsewhere a line every
# ten seconds.
progress_due=0
progress_on_line=no
progress() {
  if [[ -t 2 ]]; then
    printf '\r\e[Ktropilla: %s' "$*" >&2
    progress_on_line=yes
  elif ((SECONDS >= progress_due)); then
    say "$*"
  fi
}

# progress_end: clears the terminal's line of progress, for what comes after it.
progress_end() {
  [[ $progress_on_line == no ]] || printf '\r\e[K' >&2
  progress_on_line=no
}

# wait_showing PID COMMAND...: waits until PID ends and returns its status. What COMMAND prints, each second, is progress.
wait_showing() {
  local pid=$1 status=0
  shift
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.5
    progress "$("$@")"
  done
  progress_end
  wait "$pid" || status=$?
  return "$status"
}
