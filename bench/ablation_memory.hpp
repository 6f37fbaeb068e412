/// Gives a run of bench_ablation its bytes: from the system's allocator, one call per buffer, or from one reservation
/// under an arbiter. Both count.
#pragma once

#include "kernels/device.hpp"
#include "memory/lease.hpp"

#include <array>
#include <cstddef>
#include <memory>

namespace tropilla::bench {

/// Bytes that are in use until the last copy goes. At a multiple of 4096.
using block = std::shared_ptr<std::byte>;

/// Bytes at the highest point, altogether and of each purpose.
struct peak_bytes {
  std::size_t total = 0;
  std::array<std::size_t, purpose_count> by_purpose{};
};

/// A source of bytes. One thread.
class memory_source {
public:
  virtual ~memory_source() = default;
  /// Throws `error` (over_budget) when there are none. Blocks may outlive the source.
  [[nodiscard]] virtual block take(std::size_t bytes, purpose used_for) = 0;
  [[nodiscard]] virtual peak_bytes peak() const = 0;
};

/// aligned_alloc and free.
[[nodiscard]] std::unique_ptr<memory_source> make_plain_memory();

/// Leases on the device, whose reservation this takes.
[[nodiscard]] std::unique_ptr<memory_source> make_arbiter_memory(device& dev, std::size_t reservation_bytes);

} // namespace tropilla::bench
