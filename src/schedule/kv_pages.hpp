/// Tracks what each KV page holds: pages that sequences write, and pages that stay for later prompts that begin alike.
///
/// Pages form a tree: the path from the root to a page spells the tokens whose keys and values lie on it, so that
/// sequences with a common beginning share the pages of it. Full pages are found by the hash of their tokens and their
/// parent (as Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023,
/// section 4, share blocks; the tree is SGLang's, Zheng et al., 2024) and compared token by token; the last, partial
/// one by its longest common beginning. An unused page stays until its place is wanted, the longest unused first, and
/// children before parents.
///
/// Pages lie in extents, whose memory comes and goes as a whole: an extent is absent, asked for, or held, and pages are
/// taken from those that are held. The fullest extent gives its free pages first, so that others empty and can be given
/// up.
///
/// It handles page numbers, not bytes: every device has pages of its own under the same numbers. It has no locks: one
/// thread at a time.
#pragma once

#include "kernels/kv_cache.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace tropilla {

class kv_pages {
public:
  /// Bytes of this class for each page, which a plan counts: with extents of one page, the most.
  static constexpr std::size_t bytes_per_page = 192;

  /// All extents are absent at first. The last one may have fewer than `extent_pages` pages. @pre extent_pages > 0
  explicit kv_pages(std::size_t pages, std::size_t extent_pages = 1);
  /// Forgets all pages and their uses. Extents stay asked for and held, and the limit stays. Allocates nothing.
  void clear() noexcept;

  /// The pages of one sequence, in order of position. Movable handle: every use is given back by `release`.
  struct path {
    std::vector<page_number> pages;
    std::size_t tokens = 0; ///< whose keys and values are on them
  };

  /// The longest path whose tokens are the beginning of `tokens`. Its pages are used from now on. `copy`: the last page
  /// is new, and what it shares with another has to be copied to it; `from` and the pages before it stay in use until
  /// `copied`. A partial page that is unused is taken over without a copy.
  [[nodiscard]] path find(std::span<const token_id> tokens, std::optional<page_copy>& copy);
  void copied(const page_copy& c);

  /// The longest path whose tokens are the beginning of `tokens`, for reading: its pages are used from now on, and the
  /// last one may hold more tokens, and get more of them from the sequence that writes it.
  [[nodiscard]] path look_up(std::span<const token_id> tokens);
  /// Removes the last page from a path that was looked up.
  void shorten(path& p);
  /// The longest path of full pages whose tokens are the beginning of `tokens`. Its pages are used from now on.
  [[nodiscard]] path find_full(std::span<const token_id> tokens);
  /// Uses the first `pages` pages of a path once more. @pre they are full
  [[nodiscard]] path hold(const path& p, std::size_t pages);
  /// Marks the pages of a path as used, as if they had been taken from where they were: their holder does not know that
  /// everything else was forgotten.
  /// @pre these pages are unused and nothing is on them, as after `clear`; their extents are held
  void occupy(const path& p);

  /// The beginning that `find` would find, without using or changing anything.
  struct beginning {
    std::size_t tokens = 0;
    std::size_t pages = 0;      ///< full ones, that need no new page
    std::size_t idle_pages = 0; ///< of these, how many count as available now
  };
  [[nodiscard]] beginning matching(std::span<const token_id> tokens) const;
  /// As above; appends the full pages to `found`.
  [[nodiscard]] beginning matching(std::span<const token_id> tokens, std::vector<page_number>& found) const;

  /// Adds an empty page to a path's end; false when every page of the extents that are held is in use.
  [[nodiscard]] bool extend(path& p);
  /// Notes that the next tokens of the path have been computed: they can be found from now on. Where another path has
  /// the same page already, the path goes on with that one.
  /// @pre the path has pages for them
  void append(path& p, std::span<const token_id> tokens);
  /// Ends this path's use of its pages; what was appended can still be found.
  void release(path& p);
  /// Notes that the contents of a page are unknown: its tokens are not to be found. @pre it is unused, or one path uses
  /// it and it is not full
  void spoil(page_number n);

  /// Pages that a new use could have: free ones of extents that are held, those that only wait to be found, and those
  /// that are obtainable unless memory was refused.
  [[nodiscard]] std::size_t available() const noexcept {
    return free_held() + idle_count_ + (refusal_ ? 0 : obtainable());
  }
  /// Free pages of the extents that are held.
  [[nodiscard]] std::size_t free_held() const noexcept { return held_pages_ - used_count_ - idle_count_; }
  /// Pages of extents that are asked for, and of absent ones that the limit lets be asked for.
  [[nodiscard]] std::size_t obtainable() const noexcept;
  [[nodiscard]] std::size_t in_use() const noexcept { return used_count_; }
  [[nodiscard]] std::size_t cached() const noexcept { return idle_count_; } ///< unused, but to be found
  [[nodiscard]] std::size_t size() const noexcept { return nodes_.size(); }

  // -- extents ----

  [[nodiscard]] std::size_t extent_pages() const noexcept { return extent_pages_; }
  [[nodiscard]] std::size_t extents() const noexcept { return extents_.size(); }
  [[nodiscard]] std::size_t held() const noexcept { return held_; }
  [[nodiscard]] std::size_t asked() const noexcept { return asked_; }
  /// Held, with a page in use.
  [[nodiscard]] std::size_t extents_in_use() const noexcept;
  /// The pages of an extent: the last one may have fewer.
  [[nodiscard]] std::size_t pages_of(extent_number e) const noexcept;
  /// Extents that may be held or asked for; all at first. What exceeds it stays until it is given up.
  void set_limit(std::size_t extents) noexcept { limit_ = extents < extents_.size() ? extents : extents_.size(); }
  [[nodiscard]] std::size_t limit() const noexcept { return limit_; }

  /// Chooses absent extents, the lowest numbers first, so that at least `pages` pages are free when they are granted:
  /// free pages of held extents and pages of those asked for before count. Fewer when the limit or a refusal stands
  /// against it. They count as asked for until `extent_granted` or `extent_refused`.
  [[nodiscard]] std::vector<extent_number> choose_extents(std::size_t pages);
  /// @pre it is asked for
  void extent_granted(extent_number e);
  /// There is no memory for the extent, and until `try_again` for no other one. @pre it is asked for
  void extent_refused(extent_number e, std::string why);
  /// Why there is no memory for another extent, since the last `try_again`.
  [[nodiscard]] const std::optional<std::string>& refusal() const noexcept { return refusal_; }
  /// Notes that there may be memory again.
  void try_again() noexcept { refusal_.reset(); }

  /// Gives up the held extents on which nothing is, except for `keep` of them; the highest numbers go first. Returns
  /// those that are absent now.
  [[nodiscard]] std::vector<extent_number> give_up_empty(std::size_t keep);
  /// Gives up up to `count` held extents without a page in use, and forgets what is on them and on the pages behind
  /// those: first the extents by which the fewest pages are forgotten, of these the longest unused. Each one that is
  /// not empty takes time for all pages. Returns those that are absent now.
  [[nodiscard]] std::vector<extent_number> give_up_cached(std::size_t count);

private:
  enum class extent_state : std::uint8_t { absent, asked, held };
  struct extent {
    extent_state state = extent_state::absent;
    std::uint32_t used = 0, idle = 0; ///< pages
    std::uint32_t first_free = ~std::uint32_t{0};
  };

  static constexpr std::uint32_t none = ~std::uint32_t{0};

  struct node {
    std::uint32_t count = 0; ///< tokens
    std::uint32_t parent = none;
    std::uint32_t first_child = none, next_sibling = none, previous_sibling = none;
    std::uint32_t newer = none, older = none; ///< among the idle ones, or the next and previous free one of its extent
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
  [[nodiscard]] beginning matching(std::span<const token_id> tokens, std::vector<page_number>* found) const;
  [[nodiscard]] std::uint32_t take();
  void use(std::uint32_t n);
  void unuse(std::uint32_t n);
  void link(std::uint32_t n, std::uint32_t parent);
  void forget(std::uint32_t n);
  void forget_all_behind(std::uint32_t n);
  [[nodiscard]] extent& extent_of(std::uint32_t n) noexcept { return extents_[n / extent_pages_]; }
  void add_free(std::uint32_t n);
  void remove_free(std::uint32_t n);
  void give_up(extent_number e);
  [[nodiscard]] bool is_empty(const extent& e) const noexcept;
  [[nodiscard]] std::vector<std::size_t> losses() const;
  [[nodiscard]] std::optional<extent_number> cheapest_unused() const;
  void add_idle(std::uint32_t n);
  void remove_idle(std::uint32_t n);

  std::size_t extent_pages_;
  std::vector<node> nodes_;      ///< by page number
  std::vector<token_id> tokens_; ///< [page, kv_page_tokens]
  std::vector<extent> extents_;
  std::size_t limit_ = 0, held_ = 0, asked_ = 0; ///< extents
  std::size_t held_pages_ = 0, asked_pages_ = 0; ///< of these
  std::optional<std::string> refusal_;
  std::uint32_t root_child_ = none;
  std::uint32_t oldest_ = none, newest_ = none; ///< of the idle ones
  std::size_t used_count_ = 0, idle_count_ = 0;
  std::vector<std::uint32_t> full_; ///< first full page of each slot, by hash of parent and tokens
};

} // namespace tropilla
