/// `memory_arbiter` decides which bytes of each device go to whom: budgets, pools, leases, waiters by priority.
#pragma once

#include "memory/lease.hpp"
#include "memory/pool.hpp"
#include "memory/reclaim.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tropilla {

/// The order in which waiters get bytes that come back: higher values first, equal ones in order of arrival.
enum class priority : std::uint8_t { background = 0, normal = 1, urgent = 2 };

/// Memory that lies outside the pool and still counts against the budget: a mapped file that processes share, the
/// allocator's. Several leases of the same address count once.
struct outside_memory {
  std::byte* data = nullptr;             ///< what `lease::data` returns; null: nowhere in particular
  std::shared_ptr<void> keep_alive = {}; ///< goes with the last copy of the lease
};

/// One request for bytes on one device.
struct memory_request {
  std::string device; ///< "host:0"
  std::size_t bytes = 0;
  purpose used_for{};
  priority rank = priority::normal;
  std::optional<outside_memory> outside = {}; ///< takes bytes from the budget, but no block from the pool
  bool commits_later = false;                 ///< `device_setup::commit` is not called: the first writer asks instead
};

/// Why a request is not granted. `message` names the numbers.
struct refusal {
  std::size_t missing_bytes = 0; ///< what the budget lacks
  std::string message;
};

/// Describes a device to the arbiter: its reservation, its budget, and how its pages come and go.
struct device_setup {
  std::string name;
  std::byte* base = nullptr; ///< of the reservation; may be null in tests
  std::size_t reservation_bytes = 0;
  std::size_t budget = 0; ///< at most the reservation
  std::size_t alignment = 64;
  /// `base` is ordinary memory that reads as zeros until it is written and outlives the arbiter: builds with assertions
  /// or AddressSanitizer poison what is free (`pool::poison`).
  bool host_memory = false;
  /// Called when the bytes [offset, offset + bytes) of the reservation are about to be used. Returns nothing if they
  /// may be used, else the reason why the device has no memory for them ("the device has no memory left"). Called with
  /// the arbiter's lock held: it must not call the arbiter.
  std::function<std::optional<std::string>(std::size_t offset, std::size_t bytes)> commit = {};
  /// Called when the free bytes [offset, offset + bytes) of the reservation must give their pages back, because bytes
  /// in use and free bytes that still have pages together would exceed the budget: before `commit` for the block that
  /// needs the room, and when a lease ends while a lowered budget is exceeded. Otherwise free bytes keep their pages,
  /// and a block that is taken again needs no new ones. Also called for all free bytes when `commit` refuses, which is
  /// then asked once more. May name bytes that have no pages. Called on whatever thread asks or gives back, with the
  /// arbiter's lock held, so that nobody gets the bytes meanwhile: it must not call the arbiter, and not throw.
  std::function<void(std::size_t offset, std::size_t bytes)> trim = {};
};

/// Bytes of a device that were granted or came back, for observers.
struct memory_change {
  purpose used_for{};
  bool granted = false;                            ///< false: they came back
  std::size_t bytes = 0;                           ///< rounded as the pool rounds them
  std::optional<std::size_t> offset{};             ///< of the block in the reservation; none for memory outside of it
  std::array<std::size_t, purpose_count> in_use{}; ///< from now on, by purpose
};

/// A device's memory at one moment. Bytes, rounded as the pool rounds them.
struct device_usage {
  std::string device;
  std::size_t budget = 0;
  std::size_t in_use = 0;
  std::size_t high_water = 0;
  std::array<std::size_t, purpose_count> by_purpose{};
  std::array<std::size_t, purpose_count> high_water_by_purpose{};
  std::size_t waiters = 0;
  std::size_t waiting_bytes = 0;
  std::size_t shortage = 0; ///< what waiters, or a budget below what is in use, lack
  pool_statistics pool;
};

/// Grants, queues or refuses requests for bytes of devices. Every member function may be called from any thread, also
/// from the callbacks of waiters and from reclaimers, which run without the arbiter's lock. Leases keep the arbiter
/// alive.
///
/// Invariant: the bytes in use on a device never exceed its budget, except after `set_budget` below what is in use,
/// when nothing is granted until enough came back. With `device_setup::trim` that holds for these and the free bytes
/// that have pages together, but for a page that free bytes share with others.
///
/// Liveness: a queued request is answered as long as the holders of leases give them back. Callers that hold leases
/// while they wait in `acquire` for more can wait for each other for ever, unless the budget has room for all that they
/// hold and wait for. A plan has that room for a device's weight groups and ring; what the ring has beyond its plan,
/// its reclaimer gives back. Any other caller that holds leases and needs more uses `try_acquire`, which never waits,
/// and gives up what it holds when that is refused (a sequence that is preempted and computed again). No waiter is
/// overtaken on its device by an equal, so nobody starves.
class memory_arbiter : public std::enable_shared_from_this<memory_arbiter> {
public:
  using grant = std::variant<lease, refusal>;
  using ticket = std::uint64_t;

  [[nodiscard]] static std::shared_ptr<memory_arbiter> make();
  ~memory_arbiter();

  /// Adds a device. Throws `error` (invalid_argument) for a name that exists or a budget above the reservation.
  void add_device(const device_setup& setup);
  void add_device(const std::string& name, std::byte* base, std::size_t reservation_bytes, std::size_t budget,
                  std::size_t alignment);

  /// Grants at once or refuses, never queues. Waiters of equal or higher rank go first: then it is refused, too.
  [[nodiscard]] grant try_acquire(const memory_request& request);

  /// Grants at once, queues until bytes come back, or refuses what exceeds the budget by itself and what the device has
  /// no memory for. When it queues, the device's reclaimers are asked for what is short, on this thread.
  /// `done` is called exactly once: during this call or later on the thread that gave bytes back, or with a refusal by
  /// `cancel`. Returns a ticket for `cancel`. @pre the caller holds no lease, or the budget has room for all that it
  /// and other such callers hold and wait for (see Liveness)
  ticket acquire(const memory_request& request, std::function<void(grant)> done);

  /// Refuses a queued request; false when it was answered already.
  bool cancel(ticket t);

  /// Takes effect at once in both directions; leases that exist stay valid. Waiters that the new budget can never
  /// serve are refused; reclaimers are asked for what is short; pages that free bytes have beyond the new
  /// budget go back to the system through `device_setup::trim`. Throws `error` (invalid_argument) for an unknown device
  /// or above the reservation.
  void set_budget(const std::string& device, std::size_t budget);

  /// Gives the pages of a device's free bytes back to the system through `device_setup::trim`, also those that the
  /// budget has room for. Nothing else changes. Throws `error` (invalid_argument) for an unknown device.
  void trim(const std::string& device);

  /// Registers a function that can give bytes of a device back. Reclaimers are asked in the order in which they were
  /// registered. Throws `error` (invalid_argument) for an unknown device.
  [[nodiscard]] reclaim_registration add_reclaimer(const std::string& device, reclaimer ask);

  /// Calls `hear` for every grant and return of a device's bytes until the last copy of the result is gone. Called on
  /// whatever thread asks or gives back, with the arbiter's lock held: it must only take notes. It must not throw.
  /// Throws `error` (invalid_argument) for an unknown device.
  [[nodiscard]] std::shared_ptr<void> observe(const std::string& device,
                                              std::function<void(const memory_change&)> hear);

  [[nodiscard]] device_usage usage(const std::string& device) const;
  [[nodiscard]] std::vector<device_usage> usage() const;

  /// For tests of refusals: the `n`-th acquisition from now is refused, whether it waits or not. 0 refuses none.
  void refuse_acquisition(std::uint64_t n);

private:
  friend class lease;
  memory_arbiter();
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
