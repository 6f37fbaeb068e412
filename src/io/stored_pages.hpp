/// Knows which KV pages a store has, where, and which of them is worth least. Inside of src/io.
///
/// A page ranks by its last use, and pages that were used together by their place in the chain: a page without the one
/// before it is worth nothing, so the later ones leave first. A use of a page is a use of all before it. The page of
/// the lowest rank is therefore never one whose successors are stored.
#pragma once

#include "src/model/page_store.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <unordered_map>

namespace tropilla {

struct stored_page;

/// Lowest rank first.
struct by_rank {
  [[nodiscard]] bool operator()(const stored_page* a, const stored_page* b) const noexcept;
};
using pages_by_rank = std::set<stored_page*, by_rank>;

struct stored_page {
  static constexpr std::uint64_t no_slot = std::numeric_limits<std::uint64_t>::max();

  page_key key, before;
  std::uint64_t used = 0;
  std::uint32_t depth = 0;        ///< pages before it in its chain, as far as they were stored when it was added
  std::uint32_t pins = 0;         ///< threads that read or write its bytes: it stays where it is
  std::byte* image = nullptr;     ///< its slot in host memory
  std::uint64_t slot = no_slot;   ///< in the file
  std::uint64_t used_in_file = 0; ///< what the slot's header says
  pages_by_rank::iterator in_host, on_disk;

  [[nodiscard]] bool is_in_host() const noexcept { return image != nullptr; }
  [[nodiscard]] bool is_on_disk() const noexcept { return slot != no_slot; }
};

/// Not thread-safe: its owner locks. Pages don't move in memory.
class stored_pages {
public:
  [[nodiscard]] stored_page* find(const page_key& key);
  [[nodiscard]] const pages_by_rank& host() const noexcept { return host_; }
  [[nodiscard]] const pages_by_rank& disk() const noexcept { return disk_; }

  /// A number for a use that is later than all before.
  [[nodiscard]] std::uint64_t next_use() noexcept { return ++clock_; }
  /// The rank of a page that is not stored yet: compare with `by_rank`.
  [[nodiscard]] stored_page candidate(const page_key& before, const page_key& key, std::uint64_t used);
  /// Adds a page that has no place yet, with its rank; it gets one, or is pinned, before the lock is let go.
  stored_page& add(const stored_page& candidate);
  /// Marks a page, and those before it, as used.
  void touch(stored_page& page, std::uint64_t used);

  void put_in_host(stored_page& page, std::byte* image);
  void put_on_disk(stored_page& page, std::uint64_t slot);
  /// Forget one place of a page, and the page when that was the last and nothing pins it.
  void drop_from_host(stored_page& page);
  void drop_from_disk(stored_page& page);
  /// @pre pinned
  void unpin(stored_page& page);

  /// Adds a page as a file has it, whose rank may contradict those before it. False when it is there already.
  bool add_from_disk(const stored_page& page);
  /// After the last of these: puts ranks in order.
  void settle();

private:
  struct hash {
    [[nodiscard]] std::size_t operator()(const page_key& key) const noexcept { return key.low; }
  };
  void set_used(stored_page& page, std::uint64_t used);
  void erase_if_gone(stored_page& page);

  std::unordered_map<page_key, stored_page, hash> pages_;
  pages_by_rank host_, disk_;
  std::uint64_t clock_ = 0;
};

} // namespace tropilla
