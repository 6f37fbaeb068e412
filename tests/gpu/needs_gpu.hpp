/// For programs of tests that need a GPU.
#pragma once

#include "kernels/cuda/gpus.hpp"

#include <fmt/format.h>
#include <string_view>

namespace tropilla::testing {

/// 0 where there is a GPU, else 77, which ctest takes for skipped, and a sentence.
inline int status_without_gpu(int count, char** arguments) {
  // ctest asks for the list of tests at build time, and needs no GPU for that.
  for (int i = 1; i < count; ++i)
    if (std::string_view(arguments[i]).starts_with("--list"))
      return 0;
  const auto list = cuda::list_gpus();
  if (!list.gpus.empty())
    return 0;
  fmt::print("skipped: {}\n", list.none_because);
  return 77;
}

} // namespace tropilla::testing
