// Default implementations of `device`, for devices that have the processor's own memory.
#include "kernels/device.hpp"

#include "memory/bytes.hpp"
#include <cstring>
#include <fmt/format.h>
#include <new>

namespace tropilla {

void device::upload(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

void device::download(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

bool device::takes_from(const device&) const noexcept {
  return false;
}

void device::copy_from(const device& other, const std::byte*, std::byte*, std::size_t) {
  throw error(errc::internal, fmt::format("{} can't copy from {}", name(), other.name()));
}

std::shared_ptr<std::byte> device::make_host_buffer(std::size_t bytes) {
  constexpr std::align_val_t page{4096};
  auto* const memory = static_cast<std::byte*>(::operator new(bytes, page, std::nothrow));
  if (memory == nullptr)
    throw error(errc::over_budget, fmt::format("the system has no {} for a buffer of {}", format_bytes(bytes), name()));
  return {memory, [](std::byte* p) { ::operator delete(p, page); }};
}

} // namespace tropilla
