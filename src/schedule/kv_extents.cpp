// Keeps the free pages of each extent, and chooses the extents that come and go.
#include "src/schedule/kv_pages.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace tropilla {

// -- free pages ------------------------------------------------------------------------------------------------------

void kv_pages::add_free(std::uint32_t n) {
  auto& first = extent_of(n).first_free;
  nodes_[n].older = none;
  nodes_[n].newer = first;
  if (first != none)
    nodes_[first].older = n;
  first = n;
}

void kv_pages::remove_free(std::uint32_t n) {
  auto& here = nodes_[n];
  (here.older == none ? extent_of(n).first_free : nodes_[here.older].newer) = here.newer;
  if (here.newer != none)
    nodes_[here.newer].older = here.older;
  here.older = here.newer = none;
}

/// Takes a free page of the fullest extent that has one, else the page that is unused for the longest time; none when
/// all are in use.
std::uint32_t kv_pages::take() {
  if (free_held() == 0) {
    if (oldest_ == none)
      return none;
    forget(oldest_);
  }
  const extent* fullest = nullptr;
  for (const auto& e : extents_)
    if (e.state == extent_state::held && e.first_free != none &&
        (fullest == nullptr || e.used + e.idle > fullest->used + fullest->idle))
      fullest = &e;
  if (fullest == nullptr) // there is a free page, so there is one
    return none;
  const auto n = fullest->first_free;
  remove_free(n);
  nodes_[n].uses = 1;
  ++extent_of(n).used;
  ++used_count_;
  return n;
}

// -- extents ---------------------------------------------------------------------------------------------------------

std::size_t kv_pages::pages_of(extent_number e) const noexcept {
  return std::min(extent_pages_, nodes_.size() - e * extent_pages_);
}

std::size_t kv_pages::extents_in_use() const noexcept {
  return static_cast<std::size_t>(std::ranges::count_if(extents_, [](const extent& e) { return e.used > 0; }));
}

std::size_t kv_pages::obtainable() const noexcept {
  const std::size_t room = limit_ > held_ ? limit_ - held_ : 0; // for extents
  if (room >= extents_.size() - held_)
    return nodes_.size() - held_pages_;
  // The last extent, which may be smaller, is chosen last.
  return room >= asked_ ? asked_pages_ + (room - asked_) * extent_pages_ : std::min(asked_pages_, room * extent_pages_);
}

std::vector<extent_number> kv_pages::choose_extents(std::size_t pages) {
  std::vector<extent_number> out;
  if (refusal_)
    return out;
  for (extent_number e = 0; e < extents_.size() && held_ + asked_ < limit_ && free_held() + asked_pages_ < pages; ++e) {
    if (extents_[e].state != extent_state::absent)
      continue;
    extents_[e].state = extent_state::asked;
    ++asked_;
    asked_pages_ += pages_of(e);
    out.push_back(e);
  }
  return out;
}

void kv_pages::extent_granted(extent_number e) {
  assert(extents_[e].state == extent_state::asked);
  extents_[e].state = extent_state::held;
  --asked_;
  asked_pages_ -= pages_of(e);
  ++held_;
  held_pages_ += pages_of(e);
}

void kv_pages::extent_refused(extent_number e, std::string why) {
  assert(extents_[e].state == extent_state::asked);
  extents_[e].state = extent_state::absent;
  --asked_;
  asked_pages_ -= pages_of(e);
  refusal_ = std::move(why);
}

bool kv_pages::is_empty(const extent& e) const noexcept {
  return e.state == extent_state::held && e.used + e.idle == 0;
}

/// @pre it is empty
void kv_pages::give_up(extent_number e) {
  assert(is_empty(extents_[e]));
  extents_[e].state = extent_state::absent;
  --held_;
  held_pages_ -= pages_of(e);
}

std::vector<extent_number> kv_pages::give_up_empty(std::size_t keep) {
  std::vector<extent_number> out;
  auto empty =
      static_cast<std::size_t>(std::ranges::count_if(extents_, [this](const extent& e) { return is_empty(e); }));
  for (auto e = static_cast<extent_number>(extents_.size()); empty > keep && e-- > 0;) {
    if (!is_empty(extents_[e]))
      continue;
    give_up(e);
    --empty;
    out.push_back(e);
  }
  return out;
}

std::vector<extent_number> kv_pages::give_up_cached(std::size_t count) {
  std::vector<extent_number> out;
  while (out.size() < count) {
    // The pages that were forgotten last may have emptied other extents.
    const auto empty =
        static_cast<std::size_t>(std::ranges::count_if(extents_, [this](const extent& e) { return is_empty(e); }));
    const auto gone = give_up_empty(empty - std::min(empty, count - out.size()));
    out.insert(out.end(), gone.begin(), gone.end());
    if (out.size() == count)
      break;
    const auto next = cheapest_unused();
    if (!next)
      break;
    const auto first = static_cast<std::uint32_t>(*next * extent_pages_);
    for (auto n = first; n < first + pages_of(*next); ++n)
      if (nodes_[n].count > 0)
        forget_all_behind(n);
    give_up(*next);
    out.push_back(*next);
  }
  return out;
}

/// The held extent without a page in use, but with some to be found, by which the fewest are forgotten; of these the
/// longest unused.
std::optional<extent_number> kv_pages::cheapest_unused() const {
  const auto is_candidate = [](const extent& e) { return e.state == extent_state::held && e.used == 0 && e.idle > 0; };
  if (std::ranges::none_of(extents_, is_candidate))
    return std::nullopt;
  const auto loss = losses();
  std::vector<std::size_t> last_used(extents_.size());
  std::size_t order = 0;
  for (auto n = oldest_; n != none; n = nodes_[n].newer)
    last_used[n / extent_pages_] = ++order;
  std::optional<extent_number> best;
  for (extent_number e = 0; e < extents_.size(); ++e)
    if (is_candidate(extents_[e]) &&
        (!best || std::pair(loss[e], last_used[e]) < std::pair(loss[*best], last_used[*best])))
      best = e;
  return best;
}

/// For each extent, the pages that are forgotten with it: its own, and those behind them on any extent. Walks the tree
/// once, children before parents.
std::vector<std::size_t> kv_pages::losses() const {
  std::vector<std::size_t> out(extents_.size());
  std::vector<std::uint32_t> on_path(extents_.size()); // pages of the extent between the root and here
  std::vector<std::size_t> done_before;                // pages of the path, and how many were done when it was entered
  std::size_t done = 0;
  const auto enter = [&](std::uint32_t n) {
    for (; n != none; n = nodes_[n].first_child) {
      ++on_path[n / extent_pages_];
      done_before.push_back(done);
      if (nodes_[n].first_child == none)
        return n;
    }
    return none;
  };
  for (auto n = enter(root_child_); n != none;) {
    ++done;
    const auto e = n / extent_pages_;
    if (--on_path[e] == 0) // else a page before it counts it
      out[e] += done - done_before.back();
    done_before.pop_back();
    n = nodes_[n].next_sibling != none ? enter(nodes_[n].next_sibling) : nodes_[n].parent;
  }
  return out;
}

/// Forgets a page and all pages behind it. @pre it is unused, and with it they are
void kv_pages::forget_all_behind(std::uint32_t n) {
  for (auto at = n;;) {
    while (nodes_[at].first_child != none)
      at = nodes_[at].first_child;
    const auto before = nodes_[at].parent;
    forget(at);
    if (at == n)
      return;
    at = before;
  }
}

} // namespace tropilla
