#!/usr/bin/env bash
# Builds into build/PRESET, quietly unless something fails.
#   scripts/build.sh [--no-deps] [preset] [target...]     preset: release (default), debug, asan, tsan, fuzz
# Without targets: all of the preset. The program is the target bin/tropilla.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

deps=yes
if [[ ${1:-} == --no-deps ]]; then
  deps=no
  shift
fi
preset=${1:-release}
(($# > 0)) && shift
tree=$root/build/$preset

[[ $deps == no ]] || "$root/scripts/deps.sh"
cd "$root"

# Ninja itself notices changed CMakeLists.txt and new sources; presets are the one thing that it does not watch.
if [[ ! -f $tree/build.ninja || CMakePresets.json -nt $tree/build.ninja ]]; then
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! cmake --preset "$preset" >"$log" 2>&1; then
    cat "$log" >&2
    die "CMake could not configure the preset '$preset' (its output is above)"
  fi
  touch "$tree/build.ninja"
fi

if [[ ! -d $tree/bin ]]; then
  say "building ($preset; some minutes the first time)"
fi
quiet=(--quiet)
# On a terminal the first build shows ninja's one line of progress.
[[ -t 2 && ! -d $tree/bin ]] && quiet=()
ninja -C "$tree" "${quiet[@]}" "$@" >&2 || die "the build failed (the compiler's words are above)"
