#!/usr/bin/env bash
# Tests and measures tropilla on the first GPU of this machine, in less than nine minutes: GPU tests, the small ones under
# compute-sanitizer where it is there, the GPU's limits, and speed beside them on the shape of Llama 3 8B; transformers and
# accelerate on the same shape where Python has them. Needs a driver, Python 3 and 31 GB of disk; no network.
#   scripts/gpu_check.sh [BUNDLE] [FOLDER]   BUNDLE of scripts/gpu_bundle.sh; results go to FOLDER (.)
# Leaves gpu_results.json and gpu_results.md. The status is that of the tests. TROPILLA_TEST_MODEL names a model that the
# tests compare, too.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bundle=${1:-$root/build/gpu-bundle.tar.gz}
folder=$(mkdir -p "${2:-.}" && cd "${2:-.}" && pwd -P)
[[ -f $bundle ]] || die "there is no $bundle; scripts/gpu_bundle.sh makes it, on a machine with nvcc"
work=$(mktemp -d)
writer=
# Ends who writes models, and waits until nothing is written any more.
stop_writer() {
  if [[ -n $writer ]]; then
    kill "$writer" 2>/dev/null || :
    wait "$writer" 2>/dev/null || :
  fi
  writer=
}
trap 'stop_writer; rm -rf "$work"' EXIT
tar -C "$work" -xzf "$bundle"
here=$work/tropilla-gpu
logs=$work/logs
mkdir -p "$logs"
system_libraries=${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export XDG_CACHE_HOME=$work/cache
PATH=$here/bin:$PATH:/usr/local/cuda/bin

# record NAME STATUS: for the report.
record() {
  printf '%s %s\n' "$1" "$2" >>"$logs/status"
  say "$1: status $2, $SECONDS s in all"
}

# step NAME SECONDS COMMAND...: runs it, its output to logs; a failure is remembered and not the end. What there is no
# time for any more has the status of what ran out of it.
deadline=520
step() {
  local name=$1 seconds=$2 status=0
  shift 2
  ((seconds <= deadline - SECONDS)) || seconds=$((deadline - SECONDS))
  if ((seconds < 5)); then
    status=124
  else
    timeout --kill-after=5 "$seconds" "$@" >"$logs/$name.out" 2>"$logs/$name.err" || status=$?
  fi
  record "$name" "$status"
  return "$status"
}

# write_models TYPE...: one after the other. Each is there under its name when it is complete.
write_models() {
  local type status child=
  trap 'record "synth-$type" 124; kill "$child" 2>/dev/null; wait "$child"; exit' TERM
  for type in "$@"; do
    status=0
    tropilla synth --shape llama-3-8b --type "$type" -o "$work/$type.gguf" -q >"$logs/synth-$type.out" \
      2>"$logs/synth-$type.err" &
    child=$!
    wait "$child" || status=$?
    record "synth-$type" "$status"
  done
}

# measure TYPE NAME SECONDS COMMAND...: a step on a model, if there is one.
measure() {
  local type=$1
  shift
  [[ ! -f $work/$type.gguf ]] || step "$@" || :
}
bench() {
  measure "$1" "bench-$1" 75 tropilla bench -m "$work/$1.gguf" --budget cuda:0=24GiB --no-cache -p 2048 -n 64 -r 3 -q -o json
}
batch() {
  measure "$1" "batch-$1" 75 bench_throughput batch "$work/$1.gguf" --device cuda:0 --tokens 48
}
# With a budget of a quarter of the weights; all of them stay in pinned memory once they were read.
streamed() {
  local bytes
  bytes=$(stat -c %s "$work/$1.gguf" 2>/dev/null || echo 0)
  measure "$1" "streamed-$1" 75 tropilla bench -m "$work/$1.gguf" --budget "cuda:0=$((bytes / 4))" --pinned "$bytes" \
    --no-cache -p 0 -n 8 -r 2 -q -o json
}

if ! tropilla --version >/dev/null 2>&1; then
  export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$here/lib/newer # the system's own are older than the programs want
  tropilla --version >/dev/null || die "the bundle does not run here: it needs a C library that is as new as its own"
fi
step devices 30 tropilla devices --json || :
write_models BF16 Q8_0 Q4_0 & # which needs no GPU, beside what is not timed
writer=$!
worst=0
# Alone, since a fault would take all that comes after it in its process.
step warpgroups 40 test_gpu_kernels --use-colour no "a Hopper GPU*" || worst=$?
((worst != 77)) || die "$(cat "$logs/warpgroups.out")"
((worst == 0)) || export TROPILLA_CUDA_WGMMA=off
step kernels 60 test_gpu_kernels --use-colour no || worst=$?
if ! step tests 110 test_gpu --use-colour no; then
  worst=1
  export TROPILLA_CUDA_OVERLAP=off # which no emulation shows
  step tests-apart 60 test_gpu --use-colour no || :
fi
# check TOOL PROGRAM TESTS: what a tool has no time for, or does not support, is no fault.
check() {
  local found=0
  step "$1" 45 compute-sanitizer --tool "$1" --error-exitcode 9 "$here/bin/$2" "$3" || found=$?
  ((found != 9)) || worst=9
}
if command -v compute-sanitizer >/dev/null; then
  check memcheck test_gpu "[small]"
  check racecheck test_gpu_kernels "*same bits*,CUDA: a product of warpgroups*,CUDA: rows*,CUDA: the top-k*"
fi
while kill -0 "$writer" 2>/dev/null && ((SECONDS < deadline / 2)); do
  sleep 0.2
done
stop_writer

# cuBLAS may be there as a package of Python's only.
blas=$(python3 -c 'import glob, os, sys
found = (f for p in sys.path for f in glob.glob(p + "/nvidia/*/lib/libcublasLt.so.1[23]"))
print(os.path.dirname(next(found, "")))' || :)
step limits 30 env "LD_LIBRARY_PATH=$LD_LIBRARY_PATH${blas:+:$blas}" bench_gpu_limits || :
step pool 30 bench_pool --json --repetitions 3 || :
bench BF16
streamed BF16
batch BF16
rm -f "$work/BF16.gguf"
for type in Q8_0 Q4_0; do
  bench "$type"
  batch "$type"
done
# What it is worth that kernels overlap.
measure Q4_0 apart-Q4_0 40 env TROPILLA_CUDA_OVERLAP=off tropilla bench -m "$work/Q4_0.gguf" --budget cuda:0=24GiB --no-cache \
  -p 0 -n 64 -r 3 -q -o json
streamed Q4_0
# Last, for whatever time is left; with the libraries that its packages were built for.
step peers 150 env "LD_LIBRARY_PATH=$system_libraries" python3 "$here/gpu_peers.py" --compile-seconds 40 || :

python3 "$here/gpu_report.py" "$logs" "$(cat "$here/commit")" "$folder"
cat "$folder/gpu_results.md" >&2
((worst == 0))
