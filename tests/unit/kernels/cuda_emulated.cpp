// The emulated kernels are those under test.
#include "kernels/cuda/gpus.hpp"
#include "tests/support/kernels_under_test.hpp"

#include <catch2/catch.hpp>

namespace tropilla::testing {

const kernels_under_test& under_test() {
  static const kernels_under_test emulated{[](const cuda::kernel_call& c) { cuda_emulated::enqueue(nullptr, c); }, true,
                                           1e-5, cuda_emulated::let_copies_come_early};
  return emulated;
}

} // namespace tropilla::testing

TEST_CASE("CUDA: without a GPU there is a reason, and no error", "[cuda]") {
  const auto list = tropilla::cuda::list_gpus();
  CHECK(list.gpus.empty() != list.none_because.empty());
  for (std::size_t i = 0; i < list.gpus.size(); ++i)
    CHECK(list.gpus[i].index == static_cast<int>(i));
}
