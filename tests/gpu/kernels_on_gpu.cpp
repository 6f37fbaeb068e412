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

/// A function of the table, and a wait for it. Throws `error` (device_failed).
template <auto Function, class T>
struct then_wait;
template <auto Function, class... Parameters>
struct then_wait<Function, void (*)(Parameters...)> {
  static void call(Parameters... parameters) {
    gpu().enter();
    (gpu().kernels().*Function)(parameters...);
    gpu().synchronize(nullptr);
  }
};
template <auto Function, class T>
constexpr T waiting(T cuda::kernel_table::*) {
  return then_wait<Function, T>::call;
}
#define TROPILLA_WAITING(name) .name = waiting<&cuda::kernel_table::name>(&cuda::kernel_table::name)

} // namespace

const kernels_under_test& under_test() {
  static const kernels_under_test on_gpu{
      {TROPILLA_WAITING(embed), TROPILLA_WAITING(rms_norm), TROPILLA_WAITING(store), TROPILLA_WAITING(store_swiglu),
       TROPILLA_WAITING(linear), TROPILLA_WAITING(gated_linear), TROPILLA_WAITING(rope_and_append),
       TROPILLA_WAITING(attention), TROPILLA_WAITING(gather_rows), TROPILLA_WAITING(top_k)},
      gpu().has_wgmma(),
      1e-4};
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
