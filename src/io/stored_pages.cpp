// Keeps pages in order of their ranks.
#include "src/io/stored_pages.hpp"

#include <algorithm>
#include <cassert>
#include <tuple>
#include <vector>

namespace tropilla {

bool by_rank::operator()(const stored_page* a, const stored_page* b) const noexcept {
  return std::tie(a->used, b->depth, a->key) < std::tie(b->used, a->depth, b->key);
}

stored_page* stored_pages::find(const page_key& key) {
  const auto it = pages_.find(key);
  return it == pages_.end() ? nullptr : &it->second;
}

stored_page stored_pages::candidate(const page_key& before, const page_key& key, std::uint64_t used) {
  stored_page page;
  page.key = key;
  page.before = before;
  page.used = used;
  if (const auto* parent = find(before))
    page.depth = parent->depth + 1;
  return page;
}

stored_page& stored_pages::add(const stored_page& candidate) {
  auto& page = pages_.try_emplace(candidate.key, candidate).first->second;
  assert(!page.is_in_host() && !page.is_on_disk());
  page.used = candidate.used; // of one that was dropped while it is pinned
  page.depth = candidate.depth;
  return page;
}

/// A later use has a place near the end of both orders; the search for it begins there.
void stored_pages::set_used(stored_page& page, std::uint64_t used) {
  const auto move = [&](pages_by_rank& order, pages_by_rank::iterator& at, auto change) {
    auto node = order.extract(at);
    change();
    at = order.insert(order.end(), std::move(node));
  };
  const auto in_both = [&] { page.used = used; };
  if (page.is_in_host() && page.is_on_disk())
    move(host_, page.in_host, [&] { move(disk_, page.on_disk, in_both); });
  else if (page.is_in_host())
    move(host_, page.in_host, in_both);
  else if (page.is_on_disk())
    move(disk_, page.on_disk, in_both);
  else
    page.used = used;
}

void stored_pages::touch(stored_page& page, std::uint64_t used) {
  assert(used <= clock_);
  // From the last to the first: each has its place behind all others. A chain that leads back to itself ends, too.
  for (auto* p = &page; p && p->used < used; p = find(p->before))
    set_used(*p, used);
}

void stored_pages::put_in_host(stored_page& page, std::byte* image) {
  assert(!page.is_in_host());
  page.in_host = host_.insert(&page).first;
  page.image = image;
}

void stored_pages::put_on_disk(stored_page& page, std::uint64_t slot) {
  assert(!page.is_on_disk());
  page.on_disk = disk_.insert(&page).first;
  page.slot = slot;
}

void stored_pages::drop_from_host(stored_page& page) {
  host_.erase(page.in_host);
  page.image = nullptr;
  erase_if_gone(page);
}

void stored_pages::drop_from_disk(stored_page& page) {
  disk_.erase(page.on_disk);
  page.slot = stored_page::no_slot;
  erase_if_gone(page);
}

void stored_pages::unpin(stored_page& page) {
  assert(page.pins > 0);
  --page.pins;
  erase_if_gone(page);
}

void stored_pages::erase_if_gone(stored_page& page) {
  if (page.pins == 0 && !page.is_in_host() && !page.is_on_disk())
    pages_.erase(page_key{page.key}); // a copy: the page's own goes with it
}

bool stored_pages::add_from_disk(const stored_page& page) {
  assert(page.is_on_disk());
  clock_ = std::max(clock_, page.used);
  return pages_.try_emplace(page.key, page).second;
}

void stored_pages::settle() {
  std::vector<stored_page*> all;
  all.reserve(pages_.size());
  for (auto& [key, page] : pages_)
    all.push_back(&page);
  // The latest first, so that each is raised once.
  std::ranges::sort(all, [](const auto* a, const auto* b) { return a->used > b->used; });
  for (auto* page : all)
    for (auto* p = find(page->before); p && p->used < page->used; p = find(p->before))
      p->used = page->used;
  for (auto* page : all)
    page->on_disk = disk_.insert(page).first;
}

} // namespace tropilla
