// Opens devices by their names: the one place that knows which backends there are.
#include "kernels/open_device.hpp"

#include "kernels/cuda/open_cuda_device.hpp"
#include "kernels/host/cpu_features.hpp"
#include "kernels/host/host_device.hpp"
#include "kernels/host/topology.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <optional>

namespace tropilla {
namespace {

/// The number of "cuda:3"; empty for what is no GPU's name.
std::optional<int> gpu_index(std::string_view name) {
  constexpr std::string_view prefix = "cuda:";
  if (!name.starts_with(prefix))
    return std::nullopt;
  name.remove_prefix(prefix.size());
  int index = 0;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (problem != std::errc{} || end != name.data() + name.size() || index < 0)
    return std::nullopt;
  return index;
}

} // namespace

void check_device_names(std::span<const device_budget> devices) {
  std::size_t hosts = 0;
  for (auto d = devices.begin(); d != devices.end(); ++d) {
    if (!gpu_index(d->name) && d->name != fmt::format("host:{}", hosts++))
      throw error(errc::invalid_argument,
                  fmt::format("device {} must be host:{} (those of the host are numbered from 0) or a GPU (cuda:0, "
                              "cuda:1, ...), not \"{}\"",
                              d - devices.begin() + 1, hosts - 1, d->name));
    if (std::any_of(devices.begin(), d, [&](const device_budget& before) { return before.name == d->name; }))
      throw error(errc::invalid_argument, fmt::format("{} is named twice", d->name));
  }
}

std::vector<opened_device> open_devices(std::span<const device_budget> devices, const device_demands& demands) {
  const auto cpus = host::read_topology();
  host_options host_device;
  host_device.threads =
      demands.threads > 0
          ? demands.threads
          : std::max<std::size_t>(1, host::usable_cores(cpus) / std::max<std::size_t>(1, devices.size()));
  host_device.precise = demands.precise;
  host_device.isa = demands.isa;
  std::vector<opened_device> opened;
  std::size_t hosts = 0;
  for (const auto& d : devices) {
    if (const auto index = gpu_index(d.name)) {
      opened.push_back(cuda::open_cuda_device(d, *index, demands));
    } else {
      host_device.name = d.name;
      opened.push_back(
          {std::make_unique<host::host_device>(host_device, host::units_from(cpus, hosts++ * host_device.threads))});
    }
  }
  return opened;
}

} // namespace tropilla
