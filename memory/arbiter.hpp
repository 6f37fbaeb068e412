/// The ledger of every device: budgets, pools, leases, waiters by priority, high-water marks.
#pragma once

#include "memory/lease.hpp"
#include "memory/pool.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tropilla {

/// Who goes first when bytes come back. Higher values first; equal ones in order of arrival.
enum class priority : std::uint8_t { background = 0, normal = 1, urgent = 2 };

/// One request for bytes on one device.
struct memory_request {
  std::string device; ///< "host:0"
  std::size_t bytes = 0;
  purpose why{};
  priority rank = priority::normal;
};

/// Why a request can't ever be granted as things stand. `message` names the numbers.
struct refusal {
  std::size_t missing_bytes = 0; ///< what the budget lacks
  std::string message;
};

/// A device's account at one moment. Bytes, rounded as the pool rounds them.
struct device_usage {
  std::string device;
  std::size_t budget = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0;
  std::array<std::size_t, purpose_count> by_purpose{};
  std::array<std::size_t, purpose_count> high_water_by_purpose{};
  std::size_t waiters = 0;
  std::size_t waiting_bytes = 0;
  pool_statistics pool;
};

/// Grants, queues or refuses. Every member function may be called from any thread, also from the callbacks of
/// waiters, which run without the ledger's lock. Leases keep the ledger alive.
///
/// Invariant: the bytes in use on a device never exceed its budget, except after `set_budget` below what is in use,
/// when nothing is granted until enough came back.
class arbiter : public std::enable_shared_from_this<arbiter> {
public:
  using grant = std::variant<lease, refusal>;
  using ticket = std::uint64_t;

  [[nodiscard]] static std::shared_ptr<arbiter> make();
  ~arbiter();

  /// Adds a device. `base` is its reservation of `reservation_bytes` (may be null in tests); the budget may be smaller.
  /// Throws `error` (invalid_argument) for a name that exists or a budget above the reservation.
  void add_device(const std::string& name, std::byte* base, std::size_t reservation_bytes, std::size_t budget,
                  std::size_t alignment);

  /// Grants at once or refuses, never queues. Waiters of equal or higher rank go first: then it is refused, too.
  [[nodiscard]] grant try_acquire(const memory_request& request);

  /// Grants at once, queues until bytes come back, or refuses what exceeds the budget by itself.
  /// `done` is called exactly once: during this call or later on the thread that gave bytes back,
  /// or with a refusal by `cancel`. Returns a ticket for `cancel`.
  ticket acquire(const memory_request& request, std::function<void(grant)> done);

  /// Refuses a queued request; false when it was answered already.
  bool cancel(ticket t);

  /// Takes effect at once in both directions; leases that exist stay valid. Waiters that the new budget can never
  /// serve are refused. Throws `error` (invalid_argument) for an unknown device or above the reservation.
  void set_budget(const std::string& device, std::size_t budget);

  [[nodiscard]] device_usage usage(const std::string& device) const;
  [[nodiscard]] std::vector<device_usage> usage() const;

private:
  friend class lease;
  arbiter();
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// "12.5 MiB": bytes for people.
[[nodiscard]] std::string format_bytes(std::size_t bytes);
/// "300MiB", "1.5GiB", "4096", "2GB" to bytes. Throws `error` (invalid_argument).
[[nodiscard]] std::size_t parse_bytes(std::string_view text);

} // namespace tropilla
