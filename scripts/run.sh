#!/usr/bin/env bash
# Builds what is needed, obtains the model, and answers a question, streaming.
#   scripts/run.sh [question] [option of `tropilla run`...]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

question="Give me three tips for a good night's sleep."
if (($# > 0)) && [[ $1 != -* ]]; then
  question=$1
  shift
elif [[ " $* " =~ \ (-p|--prompt|-f|--file)[\ =] ]]; then
  question= # the options bring their own
fi

program=$root/build/release/bin/tropilla
[[ -x $program ]] ||
  say "the first run installs Debian packages, builds the program and obtains a model of 94 MiB: a few minutes"
"$root/scripts/deps.sh" --program
# The download and the compiler want different things of the machine: side by side the first answer comes sooner. What
# the download has to say comes after the build.
log=$(mktemp)
"$root/scripts/model.sh" >/dev/null 2>"$log" &
obtaining=$!
trap 'kill $obtaining 2>/dev/null || true; rm -f "$log"' EXIT
"$root/scripts/build.sh" --no-deps --program
last_line() { tail -n 1 "$log" | sed 's/^tropilla: //'; }
if ! wait_showing "$obtaining" last_line; then
  cat "$log" >&2
  exit 2
fi
model=$("$root/scripts/model.sh")
rm -f "$log"
trap - EXIT

prompt=()
[[ -n $question ]] && prompt=(-p "$question")
exec "$program" run -m "$model" "${prompt[@]}" "$@"
