#!/usr/bin/env bash
# Packs what scripts/gpu_check.sh needs on a machine that has a GPU and none of our packages: the program, the GPU tests,
# the benchmarks, and the shared libraries that they link. Needs nvcc.
#   scripts/gpu_bundle.sh [FILE]     build/gpu-bundle.tar.gz
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

bundle=${1:-$root/build/gpu-bundle.tar.gz}
bin=$root/build/release/bin
"$root/scripts/build.sh" --no-deps --cuda release tropilla_cli test_gpu test_gpu_kernels bench_throughput bench_gpu_limits bench_pool ||
  die "the bundle needs a build with CUDA; is nvcc in PATH?"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tropilla-gpu/bin" "$work/tropilla-gpu/lib/newer"
for name in tropilla test_gpu test_gpu_kernels bench_throughput bench_gpu_limits bench_pool; do
  strip -o "$work/tropilla-gpu/bin/$name" "$bin/$name"
done
# All but what every system has in its own version: the C library and the loader.
ldd "$work/tropilla-gpu/bin/"* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libpthread|libdl|librt|ld-linux[^/]*)\.so' | xargs -I{} cp -L {} "$work/tropilla-gpu/lib/"
# The compiler's own may need a newer C library than the programs do: only for systems whose own are too old.
mv "$work/tropilla-gpu/lib/"lib{stdc++,gcc_s}.so* "$work/tropilla-gpu/lib/newer/"
cp "$root/scripts/gpu_check.sh" "$root/scripts/common.sh" "$root/scripts/gpu_report.py" "$root/scripts/gpu_peers.py" \
  "$work/tropilla-gpu/"
git -C "$root" describe --always --dirty --abbrev=12 >"$work/tropilla-gpu/commit"
tar -C "$work" -czf "$bundle" tropilla-gpu
say "$bundle: $(du -h "$bundle" | cut -f 1), commit $(cat "$work/tropilla-gpu/commit")"
