/// Opens devices by their names: "host:0", "host:1", ... and "cuda:0" for any GPU.
///
/// What a backend can't do with a model is refused here, so that code above the seam need not know which device it has.
#pragma once

#include "kernels/device.hpp"
#include "memory/memory_limit.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

namespace cuda {
class gpu_api;
}

/// Opens the GPU of an index; throws `error`. Tests give GPUs of their own.
using gpu_factory = std::function<std::unique_ptr<cuda::gpu_api>(int index)>;

/// What all devices of a run compute, and how.
struct device_demands {
  attention_shape heads{}; ///< of the model
  bool precise = false;    ///< activations stay float32
  std::size_t threads = 0; ///< of each device of the host; 0: an equal share of the cores that the process may use
  std::string isa{};       ///< as `host_options::isa`
  gpu_factory open_gpu{};  ///< empty: `cuda::open_gpu`
};

struct opened_device {
  std::shared_ptr<device> dev;
  memory_limit limit{}; ///< of a GPU: what it has free; unlimited for a device of the host, where all share one
};

/// Throws `error` (invalid_argument) for a name that no device has, that comes twice, or that leaves out a device of
/// the host: these are numbered from 0 on, in their order.
void check_device_names(std::span<const device_budget> devices);

/// Opens the devices, in their order. Throws `error`: unsupported (no driver, no such GPU, or one that can't compute
/// this model), over_budget (a GPU has less free than its budget), invalid_argument (unknown instruction set), io_error
/// (no thread). @pre the names passed `check_device_names`
[[nodiscard]] std::vector<opened_device> open_devices(std::span<const device_budget> devices,
                                                      const device_demands& demands);

} // namespace tropilla
