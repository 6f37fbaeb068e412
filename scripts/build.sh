#!/usr/bin/env bash
# Builds into build/PRESET and says how far it is; says nothing when there is nothing to do.
#   scripts/build.sh [--no-deps] [--program] [--cuda] [preset] [target...]
#     preset     release (the default), debug, asan, tsan or fuzz
#     target     what to build of it; without any, everything
#     --program  only bin/tropilla, which takes fewer packages and half of the time, because a new tree compiles several
#                sources at once; a later build of everything compiles each by itself, as suits who changes them
#     --cuda     with kernels for NVIDIA GPUs; without it where a GPU is found. TROPILLA_CUDA=ON, OFF or AUTO says the
#                same in the environment
#     --no-deps  installs no packages
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

deps=yes
program=no
cuda=${TROPILLA_CUDA:-}
while [[ ${1:-} == -* ]]; do
  case $1 in
    --no-deps) deps=no ;;
    --program) program=yes ;;
    --cuda) cuda=ON ;;
    *) die "build.sh knows --no-deps, --program and --cuda, not '$1'" ;;
  esac
  shift
done
cuda=${cuda^^}
[[ $cuda =~ ^(|ON|OFF|AUTO)$ ]] || die "TROPILLA_CUDA is '$cuda'; it may be ON, OFF or AUTO"
preset=${1:-release}
(($# > 0)) && shift
tree=$root/build/$preset
targets=("$@")
if [[ $program == yes ]]; then
  ((${#targets[@]} == 0)) || die "--program is a target itself; name it or '${targets[*]}', not both"
  targets=(bin/tropilla)
fi

if [[ $deps == yes ]]; then
  wanted=()
  [[ $program == no ]] || wanted=(--program)
  "$root/scripts/deps.sh" "${wanted[@]}"
fi
cd "$root"

# cached NAME VALUE: whether the tree was configured so.
cached() { grep -qE "^$1:[A-Z]+=$2\$" "$tree/CMakeCache.txt" 2>/dev/null; }

# Ninja itself notices changed CMakeLists.txt and new sources; it does not watch presets and what was asked for here.
options=()
parts=(TROPILLA_TESTS TROPILLA_BENCH TROPILLA_EXAMPLES)
if [[ $program == yes && ! -f $tree/build.ninja ]]; then
  options=("${parts[@]/#/-D}")
  options=("${options[@]/%/=OFF}" -DCMAKE_UNITY_BUILD=ON)
elif [[ $program == no ]] && cached TROPILLA_TESTS OFF; then
  options=("${parts[@]/#/-U}" -UCMAKE_UNITY_BUILD)
fi
if [[ -n $cuda ]] && ! cached TROPILLA_CUDA "$cuda"; then
  options+=("-DTROPILLA_CUDA=$cuda")
fi
if [[ ! -f $tree/build.ninja || CMakePresets.json -nt $tree/build.ninja ]] || ((${#options[@]} > 0)); then
  say "configuring build/$preset"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! cmake --preset "$preset" "${options[@]}" >"$log" 2>&1; then
    rm -f "$tree/build.ninja" # so that the next run configures again
    sed -n '/^CMake Error/,/^$/p' "$log" | grep . >&2 || cat "$log" >&2
    die "CMake could not configure the preset '$preset' (why is above)"
  fi
  touch "$tree/build.ninja"
fi

# Turns ninja's lines into progress; all others are the compiler's words, and for people.
show() {
  local line='' part status begin=$SECONDS so_far="building build/$preset" built=no
  progress_due=0
  while :; do
    status=0
    IFS= read -r -t 1 part || status=$? # over 128: a second has passed without the end of a line
    line+=$part
    if ((status <= 128)) && [[ $line =~ ^@([0-9]+)/([0-9]+)\  ]]; then
      if ((BASH_REMATCH[1] > 0)); then # 0: CMake looks for new sources
        so_far="building: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} files"
        built=yes
      fi
    elif ((status <= 128)) && [[ -n $line && ! $line =~ ^(-- |ninja: (Entering|no work)) ]]; then
      progress_end
      printf '%s\n' "$line" >&2
    fi
    ((status > 128)) || line=''
    # What is done within two seconds needs no words.
    ((SECONDS - begin < 2)) || progress "$so_far, $((SECONDS - begin)) s"
    ((status == 0 || status > 128)) || break
  done
  progress_end
  [[ $built == no ]] || ((SECONDS - begin < 2)) || say "built in $((SECONDS - begin)) s"
}
NINJA_STATUS='@%f/%t ' ninja -C "$tree" "${targets[@]}" 2>&1 | show ||
  die "the build failed (the compiler's words are above)"
