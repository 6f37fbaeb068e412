/// What tests put in the place of the real thing, when they open a runtime.
#pragma once

#include "kernels/open_device.hpp"
#include "memory/commitment.hpp"
#include "memory/pressure_source.hpp"
#include "src/io/weight_loader.hpp"
#include "src/placement/memory_yield.hpp"

#include <chrono>
#include <cstdint>

namespace tropilla {

struct runtime_hooks {
  reader_factory make_reader = make_file_reader;
  gpu_factory open_gpu;                 ///< empty: the real ones
  std::uint64_t refuse_acquisition = 0; ///< the n-th of the arbiter's acquisitions is refused; 0: none
  std::chrono::nanoseconds between_looks = std::chrono::seconds(5); ///< as `cast::scheduler_setup::between_looks`
  std::chrono::nanoseconds idle_after = std::chrono::seconds(30);   ///< as `cast::scheduler_setup::idle_after`
  pressure_files pressure{};                                        ///< for `runtime_config::yield_memory`
  yield_pace pace{};
  memory_promises::reading_function read_memory = [reader = memory_reader()] { return reader.read(); };
};

} // namespace tropilla
