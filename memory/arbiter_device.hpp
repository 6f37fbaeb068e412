// `arbiter_device` counts the bytes of one device by purpose, and has its waiters. Internal to the arbiter, which locks
// around it.
#pragma once

#include "memory/arbiter.hpp"
#include "memory/reclaim_entry.hpp"

#include <list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace tropilla::detail {

class arbiter_device {
public:
  struct waiter {
    memory_arbiter::ticket id = 0;
    memory_request request;
    std::function<void(memory_arbiter::grant)> done;
  };

  explicit arbiter_device(const device_setup& setup);

  /// The bytes that a request takes. @pre it is not larger than the reservation: rounding may wrap
  [[nodiscard]] std::size_t rounded(const memory_request& r) const noexcept { return blocks.rounded(r.bytes); }
  /// The bytes that a request takes from the budget now: none for outside memory that is leased already. Those of a
  /// request that is larger than the budget are not rounded.
  [[nodiscard]] std::size_t taken_by(const memory_request& r) const noexcept {
    if (r.bytes > usage.budget)
      return r.bytes;
    return r.outside && r.outside->data && outside_.contains(r.outside->data) ? 0 : rounded(r);
  }
  [[nodiscard]] std::size_t room() const noexcept {
    return usage.in_use < usage.budget ? usage.budget - usage.in_use : 0;
  }
  /// Bytes that waiters, or a budget below what is in use, lack.
  [[nodiscard]] std::size_t shortage() const noexcept;

  enum class allocation : std::uint8_t { done, no_block, no_memory };
  /// Allocates a block for the request. `why` gets the reason for no_memory.
  [[nodiscard]] allocation allocate(lease::block& b, const memory_request& r, std::string& why);
  void free(const lease::block& b) noexcept;
  /// Counts a block that was allocated.
  void enter(const lease::block& b);
  /// Takes a block out of the sums.
  void leave(const lease::block& b) noexcept;
  void set_budget(std::size_t budget);
  /// Trims all free blocks.
  void trim_all() noexcept;
  [[nodiscard]] device_usage describe() const;

  const std::string* name = nullptr; ///< the arbiter's key
  std::byte* base = nullptr;
  pool blocks;
  std::list<std::function<void(const memory_change&)>> observers;
  device_usage usage;      ///< waiting bytes: counted where waiters are queued and answered
  std::list<waiter> queue; ///< in the order in which they will be served
  std::vector<std::weak_ptr<reclaim_registration::entry>> reclaimers; ///< in the order of asking
  bool asking = false;                                                ///< a thread is asking the reclaimers
  bool ask_again = false;                                             ///< and should go on

private:
  void tell_observers(const lease::block& b, bool granted) const noexcept;
  /// Bytes in use, those of blocks that are not counted yet, and free bytes that may have pages.
  [[nodiscard]] std::size_t with_pages() const noexcept { return allocated_ + outside_bytes_ + blocks.touched(); }
  /// Trims free blocks, each as a whole, until `with_pages` is within the budget. 300 MiB that change from one end of
  /// the pool to the other cost about 1 ms (host, huge pages).
  void trim_to_budget() noexcept;
  void trim(const pool::range& r) noexcept;
  /// A lease of memory outside ends; true when it was the last one of that memory.
  [[nodiscard]] bool is_last(const lease::block& b) noexcept;

  std::function<std::optional<std::string>(std::size_t, std::size_t)> commit_;
  std::function<void(std::size_t, std::size_t)> trim_;
  std::map<const std::byte*, std::size_t> outside_; ///< leases of each memory outside
  std::size_t allocated_ = 0;                       ///< of the pool
  std::size_t outside_bytes_ = 0;                   ///< of `usage.in_use`
};

} // namespace tropilla::detail
