/// Reclaimers are functions that give bytes of a device back when others wait for them.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <utility>

namespace tropilla {
namespace detail {
class arbiter_device;
}

/// Answers with how many bytes it will give back, by letting go of leases now or later. `bytes` is what is short now.
/// Bytes that were promised and are still in flight are short, too, so the answer counts them again; asking twice then
/// takes nothing twice. Called while bytes are short: when a request is queued, bytes come back or the budget changes.
/// Bytes that become reclaimable in between are not asked for: their holder looks at `device_usage::shortage`. Called
/// on the thread that asked for bytes, changed the budget or gave bytes back, without the arbiter's lock, never twice
/// at a time for one device. It may call the arbiter. Letting go of a lease may call others from within: waiters that
/// it serves, another device's reclaimers. It must not throw.
using reclaimer = std::function<std::size_t(std::size_t bytes)>;

/// Keeps a reclaimer registered. When it is gone, the reclaimer is not called any more: one that another thread is in
/// is waited for, so don't hold a lock here that the reclaimer takes. Movable; the arbiter may end first.
class reclaim_registration {
public:
  reclaim_registration() = default;
  reclaim_registration(reclaim_registration&&) noexcept = default;
  reclaim_registration& operator=(reclaim_registration&& other) noexcept;
  ~reclaim_registration();

  /// Ends it early.
  void reset() noexcept;

private:
  friend class memory_arbiter;
  friend class detail::arbiter_device;
  struct entry;
  explicit reclaim_registration(std::shared_ptr<entry> e) : entry_(std::move(e)) {}
  std::shared_ptr<entry> entry_;
};

} // namespace tropilla
