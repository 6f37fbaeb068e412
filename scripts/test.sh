#!/usr/bin/env bash
# Builds and runs the tests with ctest, in stages; goes on after a stage that fails, and ends with which and why.
#   scripts/test.sh [--only STAGE[,STAGE...]]
# Without --only: format, release, tidy, asan, tsan, fuzz.
# Stages: format   clang-format has nothing to change, shellcheck nothing to say, the tree's files are as they should be
#         release  everything in the Release build: unit, actors, model (the real one), scripts, documentation
#         tidy     clang-tidy finds nothing in what changed (scripts/tidy.py says since when; TROPILLA_TIDY_BASE), or in
#                  as much of it as two minutes are enough for
#         unit, model, docs   only that part of release
#         asan     unit and actor tests under AddressSanitizer and UBSan
#         tsan     unit tests of what has threads and no CAF, under ThreadSanitizer
#         fuzz     each fuzz target for 20 seconds, from its committed corpus
# What each stage printed stays in build/logs/STAGE.log.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

stages=(format release tidy asan tsan fuzz)
if [[ ${1:-} == --only && -n ${2:-} && $# -eq 2 ]]; then
  IFS=, read -ra stages <<<"$2"
elif (($# > 0)); then
  die "test.sh knows only --only STAGE[,STAGE...]"
fi
for stage in "${stages[@]}"; do
  [[ $stage =~ ^(format|release|tidy|unit|model|docs|asan|tsan|fuzz)$ ]] || die "there is no test stage '$stage'"
done
jobs=$(nproc)
logs=$root/build/logs
mkdir -p "$logs"

# Where there is nvcc and no GPU, kernels for one kind of GPUs show what compiles.
cuda=()
if { command -v nvcc || [[ -x /usr/local/cuda/bin/nvcc ]]; } >/dev/null && ! nvidia-smi -L >/dev/null 2>&1; then
  cuda=(--cuda)
  export CUDAARCHS=${CUDAARCHS:-90a-real}
fi

# test_tree PRESET [ctest option...]: builds the preset's $targets (none: all) and runs the tests that the options choose.
targets=()
test_tree() {
  local preset=$1 begin=$SECONDS options=(--no-deps)
  shift
  [[ $preset != release ]] || options+=("${cuda[@]}")
  "${wrapper[@]}" "$root/scripts/build.sh" "${options[@]}" "$preset" "${targets[@]}" || return
  say "built $preset in $((SECONDS - begin)) s"
  "${wrapper[@]}" ctest --test-dir "$root/build/$preset" --output-on-failure --no-tests=error --timeout 600 -j "$jobs" "$@"
}

# The TSan of GCC 12 cannot place its shadow memory where the kernel randomises addresses widely.
wrapper=(env)
fixed_addresses=(setarch "$(uname -m)" -R)
"${fixed_addresses[@]}" true 2>/dev/null || fixed_addresses=(env)

check_style() {
  local status=0
  "$root/scripts/format.sh" --check || status=1
  (cd "$root" && shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/run) || status=1
  python3 "$root/tests/scripts/test_tree.py" || status=1
  return $status
}

# Emulated kernels are not instrumented and have one thread: sanitizers see nothing of them and take a minute.
emulated_kernels='^kernels: ?CUDA: (a|keys|chosen|rows|an) '

run_stage() {
  case $1 in
    format) check_style ;;
    release) test_tree release ;;
    tidy) "$root/scripts/tidy.py" --seconds 120 ;;
    unit) test_tree release -L 'unit|actors|app' ;;
    model) test_tree release -L model ;;
    docs) test_tree release -L 'docs|scripts|consumers' ;;
    asan)
      targets=(test_memory test_kernels test_io test_model test_formats test_log test_trace test_sampling test_batch test_schedule test_placement test_actors
               test_app)
      wrapper=(env ASAN_OPTIONS=detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1)
      test_tree asan -L 'unit|actors' -E "$emulated_kernels"
      ;;
    tsan)
      targets=(test_memory test_kernels test_io test_model test_schedule test_log test_trace)
      wrapper=("${fixed_addresses[@]}" env TSAN_OPTIONS=halt_on_error=1)
      test_tree tsan -L unit -E "$emulated_kernels"
      ;;
    fuzz) test_tree fuzz -L fuzz ;;
  esac
}

# why STAGE: the lines of its log that tell what failed: compilers', sanitizers', tests', the scripts' own; else its end.
why() {
  local telling='error: |error [A-Z]|FAILED:|\*\*\*|FAILED$|\((Failed|Timeout|SEGFAULT|Subprocess aborted|ILLEGAL|Not Run)\)'
  telling+='|SUMMARY: |runtime error:|ERROR: (Address|Leak)|WARNING: ThreadSanitizer|^tropilla: |[^ ]+:[0-9]+: |In .* line [0-9]+'
  grep -E "$telling" "$logs/$1.log" | grep -vE '^tropilla: (built|building)' | cut -c 1-200 | awk '!seen[$0]++' |
    head -n 30 | grep . || tail -n 15 "$logs/$1.log"
}

"$root/scripts/deps.sh" --test
TROPILLA_TEST_MODEL=$("$root/scripts/model.sh")
export TROPILLA_TEST_MODEL
say "packages and model are there after $SECONDS s"

report=()
failed=()
for stage in "${stages[@]}"; do
  say "stage $stage"
  begin=$SECONDS
  verdict=passed
  if ! (run_stage "$stage") 2>&1 | tee "$logs/$stage.log"; then
    verdict=FAILED
    failed+=("$stage")
  fi
  report+=("$(printf '%-8s %s in %d s' "$stage" "$verdict" $((SECONDS - begin)))")
  say "${report[-1]}"
done
for stage in "${failed[@]}"; do
  printf '\ntropilla: why stage %s failed (all of it: build/logs/%s.log):\n' "$stage" "$stage" >&2
  why "$stage" | sed 's/^/  /' >&2
done
say "all in $SECONDS s:"
printf '  %s\n' "${report[@]}" >&2
((${#failed[@]} == 0))
