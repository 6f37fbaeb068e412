#!/usr/bin/env bash
# Builds what is needed, obtains the model, and answers a question, streaming.
#   scripts/run.sh [question] [option of `tropilla run`...]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

question="What is a llama, and why do llamas live in herds?"
if (($# > 0)) && [[ $1 != -* ]]; then
  question=$1
  shift
elif [[ " $* " =~ \ (-p|--prompt|-f|--file)[\ =] ]]; then
  question= # the options bring their own
fi

"$root/scripts/deps.sh"
# The download and the compiler want different things of the machine: side by side the first answer comes sooner.
"$root/scripts/model.sh" >/dev/null &
obtaining=$!
trap 'kill $obtaining 2>/dev/null || true' EXIT
"$root/scripts/build.sh" --no-deps release bin/tropilla
wait $obtaining # its status is ours when it fails, and it said why
trap - EXIT
model=$("$root/scripts/model.sh")

prompt=()
[[ -n $question ]] && prompt=(-p "$question")
exec "$root/build/release/bin/tropilla" run -m "$model" "${prompt[@]}" "$@"
