// Keeps the tree of pages, its hash, and the order in which unused pages go.
#include "src/schedule/kv_pages.hpp"

#include "memory/rounding.hpp"

#include <algorithm>
#include <cassert>
#include <utility>
#include <xxhash.h>

namespace tropilla {
namespace {

std::uint64_t hash_of(std::uint32_t parent, std::span<const token_id> block) {
  return XXH64(block.data(), block.size_bytes(), parent);
}

std::size_t common_beginning(std::span<const token_id> a, std::span<const token_id> b) {
  const std::size_t n = std::min(a.size(), b.size());
  return static_cast<std::size_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(n), b.begin()).first - a.begin());
}

} // namespace

kv_pages::kv_pages(std::size_t pages, std::size_t extent_pages)
    : extent_pages_(extent_pages), nodes_(pages), tokens_(pages * kv_page_tokens),
      extents_(divide_up(pages, extent_pages)), limit_(extents_.size()), full_(pages, none) {
  static_assert(sizeof(node) + kv_page_tokens * sizeof(token_id) + sizeof(extent) + sizeof full_[0] <= bytes_per_page);
  clear();
}

void kv_pages::clear() noexcept {
  std::ranges::fill(nodes_, node{});
  std::ranges::fill(full_, none);
  for (auto& e : extents_) {
    e.used = e.idle = 0;
    e.first_free = none;
  }
  for (std::size_t n = nodes_.size(); n-- > 0;)
    add_free(static_cast<std::uint32_t>(n));
  root_child_ = oldest_ = newest_ = none;
  used_count_ = idle_count_ = 0;
  refusal_.reset();
}

void kv_pages::add_tokens(std::uint32_t n, std::span<const token_id> tokens) {
  auto& here = nodes_[n];
  assert(here.count + tokens.size() <= kv_page_tokens);
  std::ranges::copy(tokens, tokens_.begin() + static_cast<std::ptrdiff_t>(n * kv_page_tokens + here.count));
  here.count += static_cast<std::uint32_t>(tokens.size());
}

std::size_t kv_pages::slot_of(std::uint32_t parent, std::span<const token_id> block) const noexcept {
  return hash_of(parent, block) % full_.size();
}

void kv_pages::add_full(std::uint32_t n) {
  auto& first = full_[slot_of(nodes_[n].parent, tokens_of(n))];
  nodes_[n].next_alike = std::exchange(first, n);
}

/// @pre it was added, and is as it was then.
void kv_pages::remove_full(std::uint32_t n) {
  auto* at = &full_[slot_of(nodes_[n].parent, tokens_of(n))];
  while (*at != none && *at != n)
    at = &nodes_[*at].next_alike;
  if (*at == n)
    *at = std::exchange(nodes_[n].next_alike, none);
}

std::uint32_t& kv_pages::children_of(std::uint32_t parent) {
  return parent == none ? root_child_ : nodes_[parent].first_child;
}

std::uint32_t kv_pages::full_child(std::uint32_t parent, std::span<const token_id> block) const {
  if (full_.empty())
    return none;
  for (auto n = full_[slot_of(parent, block)]; n != none; n = nodes_[n].next_alike)
    if (nodes_[n].parent == parent && std::ranges::equal(tokens_of(n), block))
      return n;
  return none;
}

std::pair<std::uint32_t, std::size_t> kv_pages::closest_child(std::uint32_t parent,
                                                              std::span<const token_id> tokens) const {
  std::pair<std::uint32_t, std::size_t> best{none, 0};
  for (auto n = parent == none ? root_child_ : nodes_[parent].first_child; n != none; n = nodes_[n].next_sibling)
    if (const auto common = common_beginning(tokens_of(n), tokens); common > best.second)
      best = {n, common};
  return best;
}

/// Uses the full pages that `tokens` begin with; the last of them, or none.
std::uint32_t kv_pages::use_full_pages(path& p, std::span<const token_id> tokens) {
  std::uint32_t parent = none;
  while (tokens.size() - p.tokens >= kv_page_tokens) {
    const auto n = full_child(parent, tokens.subspan(p.tokens, kv_page_tokens));
    if (n == none)
      break;
    use(n);
    p.pages.push_back(n);
    p.tokens += kv_page_tokens;
    parent = n;
  }
  return parent;
}

kv_pages::path kv_pages::look_up(std::span<const token_id> tokens) {
  path p;
  const auto parent = use_full_pages(p, tokens);
  const auto [close, common] = closest_child(parent, tokens.subspan(p.tokens));
  if (close == none)
    return p;
  use(close);
  p.pages.push_back(close);
  p.tokens += common;
  return p;
}

kv_pages::path kv_pages::find_full(std::span<const token_id> tokens) {
  path p;
  (void)use_full_pages(p, tokens);
  return p;
}

kv_pages::path kv_pages::hold(const path& p, std::size_t pages) {
  path out;
  out.pages.assign(p.pages.begin(), p.pages.begin() + static_cast<std::ptrdiff_t>(pages));
  out.tokens = pages * kv_page_tokens;
  for (const auto n : out.pages)
    use(n);
  return out;
}

void kv_pages::shorten(path& p) {
  unuse(p.pages.back());
  p.pages.pop_back();
  p.tokens = std::min(p.tokens, p.pages.size() * kv_page_tokens);
}

void kv_pages::occupy(const path& p) {
  for (const auto n : p.pages) {
    if (nodes_[n].uses++ > 0)
      continue;
    assert(nodes_[n].count == 0);
    assert(extent_of(n).state == extent_state::held);
    remove_free(n);
    ++extent_of(n).used;
    ++used_count_;
    link(n, none);
  }
}

kv_pages::path kv_pages::find(std::span<const token_id> tokens, std::optional<page_copy>& copy) {
  path p;
  const auto parent = use_full_pages(p, tokens);
  const auto [close, common] = closest_child(parent, tokens.subspan(p.tokens));
  if (close == none)
    return p;
  use(close); // before a page is taken: this one must not be it
  const auto& found = nodes_[close];
  if (found.uses == 1 && common == found.count && common < kv_page_tokens) {
    p.pages.push_back(close);
    p.tokens += common;
    return p;
  }
  const auto fresh = take();
  if (fresh == none) {
    unuse(close);
    return p;
  }
  // Pages behind one that is unused may go with it, so the pages before the source are used, too.
  for (auto before = parent; before != none; before = nodes_[before].parent)
    use(before);
  link(fresh, parent);
  add_tokens(fresh, tokens_of(close).first(common));
  p.pages.push_back(fresh);
  p.tokens += common;
  copy = page_copy{close, fresh};
  return p;
}

kv_pages::beginning kv_pages::matching(std::span<const token_id> tokens) const {
  return matching(tokens, nullptr);
}

kv_pages::beginning kv_pages::matching(std::span<const token_id> tokens, std::vector<page_number>& found) const {
  return matching(tokens, &found);
}

kv_pages::beginning kv_pages::matching(std::span<const token_id> tokens, std::vector<page_number>* found) const {
  beginning out;
  std::uint32_t parent = none;
  while (tokens.size() - out.tokens >= kv_page_tokens) {
    const auto n = full_child(parent, tokens.subspan(out.tokens, kv_page_tokens));
    if (n == none)
      break;
    parent = n;
    if (found != nullptr)
      found->push_back(n);
    out.tokens += kv_page_tokens;
    ++out.pages;
    out.idle_pages += nodes_[n].uses == 0;
  }
  out.tokens += closest_child(parent, tokens.subspan(out.tokens)).second;
  return out;
}

void kv_pages::copied(const page_copy& c) {
  for (auto n = c.from; n != none;) {
    const auto before = nodes_[n].parent; // the page may be forgotten here
    unuse(n);
    n = before;
  }
}

bool kv_pages::extend(path& p) {
  const auto n = take();
  if (n == none)
    return false;
  link(n, p.pages.empty() ? none : p.pages.back());
  p.pages.push_back(n);
  return true;
}

void kv_pages::append(path& p, std::span<const token_id> tokens) {
  while (!tokens.empty()) {
    const std::size_t index = p.tokens / kv_page_tokens;
    assert(index < p.pages.size());
    const auto n = p.pages[index];
    auto& here = nodes_[n];
    assert(here.count == p.tokens % kv_page_tokens);
    const std::size_t count = std::min(tokens.size(), kv_page_tokens - here.count);
    add_tokens(n, tokens.first(count));
    p.tokens += count;
    tokens = tokens.subspan(count);
    if (here.count < kv_page_tokens)
      continue;
    const auto same = full_child(here.parent, tokens_of(n));
    if (same == none) {
      add_full(n);
    } else if (here.uses == 1) {
      // Computed twice at the same time: the bits are the same, so one of them is enough.
      use(same);
      while (here.first_child != none) { // the path's own pages behind it
        const auto child = here.first_child;
        auto& c = nodes_[child];
        here.first_child = c.next_sibling;
        if (here.first_child != none)
          nodes_[here.first_child].previous_sibling = none;
        c.next_sibling = c.previous_sibling = none;
        link(child, same);
      }
      p.pages[index] = same;
      here.count = 0;
      unuse(n);
    }
  }
}

void kv_pages::release(path& p) {
  for (std::size_t i = p.pages.size(); i-- > 0;) // children are forgotten before parents
    unuse(p.pages[i]);
  p.pages.clear();
  p.tokens = 0;
}

void kv_pages::spoil(page_number n) {
  auto& here = nodes_[n];
  if (here.uses == 0 && here.count > 0)
    return forget_all_behind(n);
  assert(here.count < kv_page_tokens);
  here.count = 0;
}

void kv_pages::use(std::uint32_t n) {
  if (nodes_[n].uses++ > 0)
    return;
  remove_idle(n);
  ++extent_of(n).used;
  ++used_count_;
}

void kv_pages::unuse(std::uint32_t n) {
  auto& here = nodes_[n];
  assert(here.uses > 0);
  if (--here.uses > 0)
    return;
  --extent_of(n).used;
  --used_count_;
  add_idle(n);
  if (here.count == 0)
    forget(n); // nothing to be found on it
}

void kv_pages::link(std::uint32_t n, std::uint32_t parent) {
  auto& first = children_of(parent);
  nodes_[n].parent = parent;
  nodes_[n].next_sibling = first;
  nodes_[n].previous_sibling = none;
  if (first != none)
    nodes_[first].previous_sibling = n;
  first = n;
}

/// Makes an idle page a free one.
void kv_pages::forget(std::uint32_t n) {
  auto& here = nodes_[n];
  assert(here.uses == 0 && here.first_child == none);
  remove_idle(n);
  if (here.count == kv_page_tokens)
    remove_full(n);
  if (here.previous_sibling != none)
    nodes_[here.previous_sibling].next_sibling = here.next_sibling;
  else
    children_of(here.parent) = here.next_sibling;
  if (here.next_sibling != none)
    nodes_[here.next_sibling].previous_sibling = here.previous_sibling;
  here.parent = here.next_sibling = here.previous_sibling = none;
  here.count = 0;
  add_free(n);
}

void kv_pages::add_idle(std::uint32_t n) {
  nodes_[n].older = newest_;
  nodes_[n].newer = none;
  (newest_ == none ? oldest_ : nodes_[newest_].newer) = n;
  newest_ = n;
  ++extent_of(n).idle;
  ++idle_count_;
}

void kv_pages::remove_idle(std::uint32_t n) {
  auto& here = nodes_[n];
  (here.older == none ? oldest_ : nodes_[here.older].newer) = here.newer;
  (here.newer == none ? newest_ : nodes_[here.newer].older) = here.older;
  here.older = here.newer = none;
  --extent_of(n).idle;
  --idle_count_;
}

} // namespace tropilla
