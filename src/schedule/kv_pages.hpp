/// Tracks what each KV page holds: pages that sequences write, and pages that stay for later prompts that begin alike.
///
/// Pages form a tree: the path from the root to a page spells the tokens whose keys and values lie on it, so that
/// sequences with a common beginning share the pages of it. Full pages are found by the hash of their tokens and their
/// parent (as Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023,
/// section 4, share blocks; the tree is SGLang's, Zheng et al., 2024) and compared token by token; the last, partial
/// one by its longest common beginning. An unused page stays until its place is wanted, the longest unused first, and
/// children before parents.
///
/// It handles page numbers, not bytes: every device has pages of its own under the same numbers. It has no locks: one
/// thread at a time.
#pragma once

#include "kernels/kv_cache.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace tropilla {

/// Called before anything is written to a page for the first time: returns nothing, or the reason why there is no
/// memory for it.
using page_commit = std::function<std::optional<std::string>(page_number)>;

class kv_pages {
public:
  /// Bytes of this class for each page, which a plan counts.
  static constexpr std::size_t bytes_per_page = 192;

  explicit kv_pages(std::size_t pages, page_commit commit = {});
  /// Resets to the state after construction. Allocates nothing.
  void clear() noexcept;

  /// The pages of one sequence, in order of position. Movable handle: every use is given back by `release`.
  struct path {
    std::vector<page_number> pages;
    std::size_t tokens = 0; ///< whose keys and values are on them
  };

  /// The longest path whose tokens are the beginning of `tokens`. Its pages are used from now on. `copy`: the last page
  /// is new, and what it shares with another has to be copied to it; `from` stays in use until `copied`. A partial page
  /// that is unused is taken over without a copy.
  [[nodiscard]] path find(std::span<const token_id> tokens, std::optional<page_copy>& copy);
  void copied(const page_copy& c);

  /// The longest path whose tokens are the beginning of `tokens`, for reading: its pages are used from now on, and the
  /// last one may hold more tokens, and get more of them from the sequence that writes it.
  [[nodiscard]] path look_up(std::span<const token_id> tokens);
  /// Removes the last page from a path that was looked up.
  void shorten(path& p);
  /// Marks the pages of a path as used, as if they had been taken from where they were: their holder does not know that
  /// everything else was forgotten.
  /// @pre these pages are unused and nothing is on them, as after construction
  void occupy(const path& p);

  /// The beginning that `find` would find, without using or changing anything.
  struct beginning {
    std::size_t tokens = 0;
    std::size_t pages = 0;      ///< full ones, that need no new page
    std::size_t idle_pages = 0; ///< of these, how many count as available now
  };
  [[nodiscard]] beginning matching(std::span<const token_id> tokens) const;

  /// Adds an empty page to a path's end; false when every page is in use, or there is no memory for another one.
  [[nodiscard]] bool extend(path& p);
  /// Notes that the next tokens of the path have been computed: they can be found from now on. Where another path has
  /// the same page already, the path goes on with that one.
  /// @pre the path has pages for them
  void append(path& p, std::span<const token_id> tokens);
  /// Ends this path's use of its pages; what was appended can still be found.
  void release(path& p);
  /// Notes that the contents of page `n` of a path are unknown: its tokens are not to be found. @pre no other path uses
  /// it.
  void spoil(page_number n);

  /// Pages that a new use could take: free ones, without those that there is no memory for, and those that only wait to
  /// be found.
  [[nodiscard]] std::size_t available() const noexcept {
    return free_.size() - (refusal_ ? uncommitted_ : 0) + idle_count_;
  }
  /// Why there is no memory for another page, since the last `try_again`.
  [[nodiscard]] const std::optional<std::string>& refusal() const noexcept { return refusal_; }
  /// Notes that there may be memory again.
  void try_again() noexcept { refusal_.reset(); }
  [[nodiscard]] std::size_t in_use() const noexcept { return nodes_.size() - free_.size() - idle_count_; }
  [[nodiscard]] std::size_t cached() const noexcept { return idle_count_; } ///< unused, but to be found
  [[nodiscard]] std::size_t size() const noexcept { return nodes_.size(); }

private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  struct node {
    std::uint32_t count = 0; ///< tokens
    std::uint32_t parent = none;
    std::uint32_t first_child = none, next_sibling = none, previous_sibling = none;
    std::uint32_t newer = none, older = none; ///< among the idle ones
    std::uint32_t uses = 0;
    std::uint32_t next_alike = none; ///< full page whose hash has the same slot
  };

  /// The tokens of a page.
  [[nodiscard]] std::span<const token_id> tokens_of(std::uint32_t n) const noexcept {
    return std::span(tokens_).subspan(n * kv_page_tokens, nodes_[n].count);
  }
  void add_tokens(std::uint32_t n, std::span<const token_id> tokens);
  [[nodiscard]] std::size_t slot_of(std::uint32_t parent, std::span<const token_id> block) const noexcept;
  void add_full(std::uint32_t n);
  void remove_full(std::uint32_t n);
  [[nodiscard]] std::uint32_t full_child(std::uint32_t parent, std::span<const token_id> block) const;
  [[nodiscard]] std::pair<std::uint32_t, std::size_t> closest_child(std::uint32_t parent,
                                                                    std::span<const token_id> tokens) const;
  std::uint32_t use_full_pages(path& p, std::span<const token_id> tokens);
  [[nodiscard]] std::uint32_t& children_of(std::uint32_t parent);
  [[nodiscard]] bool commit_next();
  [[nodiscard]] std::uint32_t take();
  void use(std::uint32_t n);
  void unuse(std::uint32_t n);
  void link(std::uint32_t n, std::uint32_t parent);
  void forget(std::uint32_t n);
  void add_idle(std::uint32_t n);
  void remove_idle(std::uint32_t n);

  std::vector<node> nodes_;         ///< by page number
  std::vector<token_id> tokens_;    ///< [page, kv_page_tokens]
  std::vector<std::uint32_t> free_; ///< the last goes first; at the bottom those that nothing was written to yet
  std::size_t uncommitted_ = 0;     ///< of `free_`
  page_commit commit_;
  std::optional<std::string> refusal_;
  std::uint32_t root_child_ = none;
  std::uint32_t oldest_ = none, newest_ = none; ///< of the idle ones
  std::size_t idle_count_ = 0;
  std::vector<std::uint32_t> full_; ///< first full page of each slot, by hash of parent and tokens
};

} // namespace tropilla
