/// Names KV pages by what is on them, and describes their moves between devices and a store outside of these.
///
/// A sequence that gives up its pages, and a cached prefix that has to go, are written to the store first and read back
/// when they are wanted again: that is faster than computing them. Only full pages are moved, and what is on a full
/// page never changes, so a page is stored once, under a name that says all of it.
#pragma once

#include "src/model/step.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace tropilla {

/// Names a full page: a hash (128 bits) of its tokens and of the key of the page before it, so of all tokens up to its
/// end. The key before the first page stands for the model and for how it is computed.
struct page_key {
  std::uint64_t high = 0;
  std::uint64_t low = 0;

  friend bool operator==(const page_key&, const page_key&) = default;
  friend bool operator<(const page_key& a, const page_key& b) noexcept {
    return a.high != b.high ? a.high < b.high : a.low < b.low;
  }
};

/// Appends to `keys` those of the full pages of `tokens` that it lacks. @pre `keys` are those of the first pages,
/// behind `root`
void add_page_keys(page_key root, std::span<const token_id> tokens, std::vector<page_key>& keys);

/// Pages that are written to the store, or filled from it, on a thread that is neither the scheduler's nor compute's.
/// The batcher makes it, a mover carries it out, and the batcher looks whether it is over.
struct page_move {
  enum class direction : std::uint8_t {
    save,
    restore,
    prefetch, ///< within the store, to where restoring is fast; no pages
  };

  direction way = direction::save;
  std::vector<token_id> tokens;               ///< of the sequence, up to the end of the last page
  std::vector<page_key> keys;                 ///< of its pages, from the first of the sequence on
  std::vector<page_number> pages;             ///< as many; in use until it is over
  std::size_t first = 0;                      ///< the pages before this one stay where they are
  std::shared_ptr<const kv_page_table> table; ///< where `pages` lie; null in tests without memory

  // Written by the mover; read when `over`.
  std::size_t moved = 0; ///< pages, from `first` on
  double seconds = 0;    ///< that it took, without waiting for others
  /// Set last: nothing reads or writes the pages any more.
  std::atomic<bool> over = false;
};

/// What the batcher asks of a store of pages. Any thread; answers at once.
class page_index {
public:
  virtual ~page_index() = default;

  /// The key before the first page.
  [[nodiscard]] virtual page_key root() const noexcept = 0;
  /// How many of these are stored, from the first one on.
  [[nodiscard]] virtual std::size_t stored(std::span<const page_key> keys) const = 0;
};

} // namespace tropilla
