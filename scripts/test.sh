#!/usr/bin/env bash
# Builds and runs every test with ctest, in stages; goes on after a stage that fails and says so at the end.
#   scripts/test.sh [--only STAGE[,STAGE...]]
# Stages: format   clang-format has nothing to change
#         release  everything in the Release build: unit, actors, model (the real one), scripts, documentation
#         unit, model, docs   only that part of release
#         asan     unit and actor tests under AddressSanitizer and UBSan
#         tsan     unit tests of all that works without CAF, under ThreadSanitizer
#         fuzz     each fuzz target for 30 seconds, from its committed corpus
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stages=(format release asan tsan fuzz)
if [[ ${1:-} == --only && -n ${2:-} ]]; then
  IFS=, read -ra stages <<<"$2"
elif (($# > 0)); then
  die "test.sh knows only --only STAGE[,STAGE...]"
fi
for stage in "${stages[@]}"; do
  [[ $stage =~ ^(format|release|unit|model|docs|asan|tsan|fuzz)$ ]] || die "there is no test stage '$stage'"
done
jobs=$(nproc)

# test_tree PRESET [ctest option...]: builds all of a preset and runs what the options choose.
test_tree() {
  local preset=$1
  shift
  "${wrapper[@]}" "$root/scripts/build.sh" --no-deps "$preset" || return
  "${wrapper[@]}" ctest --test-dir "$root/build/$preset" --output-on-failure --no-tests=error --timeout 600 -j "$jobs" "$@"
}

# The TSan of GCC 12 cannot place its shadow memory where the kernel randomises addresses widely.
wrapper=(env)
fixed_addresses=(setarch "$(uname -m)" -R)
"${fixed_addresses[@]}" true 2>/dev/null || fixed_addresses=(env)

run_stage() {
  case $1 in
    format) "$root/scripts/format.sh" --check ;;
    release) test_tree release ;;
    unit) test_tree release -L 'unit|actors' ;;
    model) test_tree release -L model ;;
    docs) test_tree release -L 'docs|scripts' ;;
    asan)
      wrapper=(env ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1)
      test_tree asan -L 'unit|actors'
      ;;
    tsan)
      wrapper=("${fixed_addresses[@]}")
      test_tree tsan -L unit
      ;;
    fuzz) test_tree fuzz -L fuzz ;;
  esac
}

"$root/scripts/deps.sh" --test
model=$("$root/scripts/model.sh")
export TROPILLA_TEST_MODEL=$model

report=()
failed=0
for stage in "${stages[@]}"; do
  say "stage $stage"
  begin=$SECONDS
  verdict=passed
  if ! (run_stage "$stage"); then
    verdict=FAILED
    failed=1
  fi
  report+=("$(printf '%-8s %s in %d s' "$stage" "$verdict" $((SECONDS - begin)))")
  say "${report[-1]}"
done
say "all in $SECONDS s:"
printf '  %s\n' "${report[@]}" >&2
exit $failed
