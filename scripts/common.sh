# What the scripts share; sourced, not run.
# shellcheck shell=bash
set -euo pipefail

# shellcheck disable=SC2034 # used by those who source this
root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# say TEXT...: one line for people, on standard error: standard output belongs to the answer.
say() { printf 'tropilla: %s\n' "$*" >&2; }

# die SENTENCE...: what went wrong and what to do about it; status 2, as the program itself does.
die() {
  say "$*"
  exit 2
}
