// Checks a model and a budget against what CUDA devices can do.
#include "kernels/cuda/open_cuda_device.hpp"

#include "kernels/cuda/cuda_device.hpp"
#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla::cuda {
namespace {

/// Kernels are loaded when they are first launched, and graphs made later: where that fails, a device is lost.
constexpr std::size_t memory_of_cuda = std::size_t{256} << 20;

void check_model(const std::string& name, const device_demands& demands) {
  const auto& heads = demands.heads;
  if (const auto size = std::max(heads.key_size, heads.value_size); size > largest_head)
    throw error(errc::unsupported,
                fmt::format("{} takes heads of up to {} numbers, and this model's have {}; use a device of the host",
                            name, largest_head, size));
  if (heads.value_size < 2)
    throw error(errc::unsupported, fmt::format("{} takes heads of two values or more", name));
  if (demands.precise)
    throw error(errc::unsupported,
                fmt::format("{} computes with int8 activations; precise ones need a device of the host", name));
}

void check_budget(const std::string& name, std::size_t budget, std::size_t free) {
  if (budget > free)
    throw error(errc::over_budget,
                fmt::format("{} has {} free, less than its budget of {}; lower the budget, or end what holds the rest",
                            name, format_bytes(free), format_bytes(budget)));
  if (budget > 0 && free - budget < memory_of_cuda)
    throw error(errc::over_budget,
                fmt::format("{} has {} free, and its budget of {} leaves less than the {} that CUDA may take for "
                            "kernels and graphs; lower the budget",
                            name, format_bytes(free), format_bytes(budget), format_bytes(memory_of_cuda)));
}

} // namespace

opened_device open_cuda_device(const device_budget& wanted, int index, const device_demands& demands) {
  check_model(wanted.name, demands);
  auto gpu = demands.open_gpu ? demands.open_gpu(index) : open_gpu(index);
  const auto free = gpu->free_bytes();
  check_budget(wanted.name, wanted.bytes, free);
  memory_limit limit;
  if (free > memory_of_cuda) {
    limit.bytes = free - memory_of_cuda;
    limit.set_by = fmt::format("the {} that {} has free, less what CUDA takes", format_bytes(free), wanted.name);
  }
  return {std::make_unique<cuda_device>(wanted.name, std::move(gpu)), std::move(limit)};
}

} // namespace tropilla::cuda
