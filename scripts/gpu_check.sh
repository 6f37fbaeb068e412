#!/usr/bin/env bash
# Tests and measures tropilla on the first GPU of this machine, in less than nine minutes: GPU tests, the small ones under
# compute-sanitizer where it is there, the GPU's limits, and speed beside them. Needs a driver and Python 3.
#   scripts/gpu_check.sh [BUNDLE] [FOLDER]   BUNDLE of scripts/gpu_bundle.sh; results go to FOLDER (.)
# Leaves gpu_results.json and gpu_results.md. The status is that of the tests.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bundle=${1:-$root/build/gpu-bundle.tar.gz}
folder=$(mkdir -p "${2:-.}" && cd "${2:-.}" && pwd -P)
[[ -f $bundle ]] || die "there is no $bundle; scripts/gpu_bundle.sh makes it, on a machine with nvcc"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xzf "$bundle"
here=$work/tropilla-gpu
logs=$work/logs
mkdir -p "$logs"
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export XDG_CACHE_HOME=$work/cache
PATH=$here/bin:$PATH:/usr/local/cuda/bin

# step NAME SECONDS COMMAND...: runs it, its output to logs; a failure is remembered and not the end. What there is no
# time for any more has the status of what ran out of it.
deadline=520
declare -A status=()
step() {
  local name=$1 seconds=$2 begin=$SECONDS
  shift 2
  ((seconds <= deadline - SECONDS)) || seconds=$((deadline - SECONDS))
  if ((seconds < 5)); then
    status[$name]=124
    return
  fi
  status[$name]=0
  timeout "$seconds" "$@" >"$logs/$name.out" 2>"$logs/$name.err" || status[$name]=$?
  say "$name: status ${status[$name]} after $((SECONDS - begin)) s"
}

step devices 60 tropilla devices --json
step tests 150 test_gpu
if [[ ${status[tests]} == 77 ]]; then
  die "$(cat "$logs/tests.out")"
fi
if command -v compute-sanitizer >/dev/null; then
  step memcheck 100 compute-sanitizer --tool memcheck --error-exitcode 9 "$here/bin/test_gpu" "[small]"
  step racecheck 100 compute-sanitizer --tool racecheck --error-exitcode 9 "$here/bin/test_gpu" "[small]"
fi
step limits 60 bench_gpu_limits
for type in Q4_0 Q8_0 BF16; do
  model=$work/1b-$type.gguf
  step "synth-$type" 60 tropilla synth --shape llama-3.2-1b --type "$type" -o "$model" -q
  step "bench-$type" 60 tropilla bench -m "$model" --budget cuda:0=16GiB -p 512 -n 64 -r 3 -q -o json
  step "batch-$type" 60 bench_throughput batch "$model" --device cuda:0 --context 128
  if [[ $type == Q8_0 ]]; then
    step "streamed-$type" 60 tropilla bench -m "$model" --budget cuda:0=600MiB -p 512 -n 8 -r 3 -q -o json
  fi
  rm -f "$model"
done

for name in "${!status[@]}"; do
  printf '%s %s\n' "$name" "${status[$name]}"
done >"$logs/status"
python3 "$here/gpu_report.py" "$logs" "$(cat "$here/commit")" "$folder"
cat "$folder/gpu_results.md" >&2
worst=0
for name in tests memcheck racecheck; do
  [[ ${status[$name]:-0} == 0 ]] || worst=1
done
exit $worst
