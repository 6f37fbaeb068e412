// The kernels of the first GPU are those under test, on pinned memory: both the GPU and the host's kernels use it.
#include "kernels/cuda/gpu_api.hpp"
#include "tests/gpu/needs_gpu.hpp"
#include "tests/gpu/pinned_heap.hpp"
#include "tests/support/before_tests.hpp"
#include "tests/support/kernels_under_test.hpp"

#include <catch2/catch.hpp>

#include <cstdint>

namespace tropilla::testing {
namespace {

cuda::gpu_api& gpu() {
  static const auto opened = cuda::open_gpu(0);
  return *opened;
}

/// Enqueues a kernel and waits for it. Throws `error` (device_failed).
void compute(const cuda::kernel_call& c) {
  gpu().enter();
  gpu().enqueue(nullptr, c);
  gpu().synchronize(nullptr);
}

} // namespace

const kernels_under_test& under_test() {
  static const kernels_under_test on_gpu{compute, gpu().has_wgmma(), 1e-4};
  return on_gpu;
}

int before_tests(int count, char** arguments) {
  if (const int status = status_without_gpu(count, arguments))
    return status;
  if (cuda::list_gpus().gpus.empty()) // only the tests' names are asked for
    return 0;
  constexpr std::size_t heap_bytes = std::size_t{1} << 30, alignment = std::size_t{1} << 16;
  std::byte* const memory = gpu().allocate_host(heap_bytes + alignment); // until the program ends
  const auto before = reinterpret_cast<std::uintptr_t>(memory) % alignment;
  use_as_heap(memory + (alignment - before) % alignment, heap_bytes);
  return 0;
}

} // namespace tropilla::testing

TEST_CASE("a Hopper GPU multiplies by warpgroups, and the bits are those of warps") {
  if (tropilla::testing::gpu().architecture() == "sm_90")
    CHECK(tropilla::testing::under_test().has_wgmma);
}
