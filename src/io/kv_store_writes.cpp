// Saves KV pages, and writes them to the file, several at a time.
#include "src/io/kv_page_file.hpp"
#include "src/io/kv_store.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <deque>
#include <limits>
#include <new>
#include <utility>

namespace tropilla {

/// Pages in flight to the file, in order. Each is pinned, and has its bytes in an image: its own in host memory, or
/// one of the staging.
class kv_store::page_writes {
public:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();

  /// `lock`: the store's, which is held whenever this is used, and let go of meanwhile.
  page_writes(kv_store& store, locked& lock) : store_(store), lock_(lock) {}
  /// Waits for the pages; the store is locked then.
  ~page_writes();
  page_writes(const page_writes&) = delete;
  page_writes& operator=(const page_writes&) = delete;

  /// Begins to write a page of host memory. False: the file has no room for it.
  [[nodiscard]] bool start(stored_page& page) { return start(entry{&page, page.image}); }
  /// Begins to write a page that is not stored yet, of which this has the number in its chain. Takes the image.
  [[nodiscard]] bool start(stored_page& page, std::byte* image, std::size_t number) {
    return start(entry{&page, image, number, true});
  }
  /// Waits for the first page, and lets go of it.
  void finish_one();
  void finish() {
    while (!pages_.empty())
      finish_one();
  }

  [[nodiscard]] std::size_t count() const noexcept { return pages_.size(); }
  /// The number of the first page that could not be written; `none` up to then.
  [[nodiscard]] std::size_t failed() const noexcept { return failed_; }

private:
  struct entry {
    stored_page* page;
    std::byte* image;
    std::size_t number = 0;
    bool staged = false;
    kv_page_file::page_write write{};
  };
  [[nodiscard]] bool start(const entry& e);
  void release(const entry& e);

  kv_store& store_;
  locked& lock_;
  std::deque<entry> pages_;
  std::size_t failed_ = none;
};

kv_store::page_writes::~page_writes() {
  if (!lock_)
    lock_.lock();
  while (!pages_.empty())
    try {
      finish_one();
    } catch (const std::bad_alloc&) { // for its place; it is computed again
    }
}

void kv_store::page_writes::release(const entry& e) {
  if (e.staged)
    store_.staging_.give_back(e.image);
  store_.pages_.unpin(*e.page);
}

bool kv_store::page_writes::start(const entry& e) {
  ++e.page->pins;
  std::optional<std::uint64_t> slot;
  const auto count = pages_.size();
  try {
    pages_.push_back(e);
    // No page leaves the file for this one that ranks higher than another in flight to it: it may be that one's
    // parent.
    const auto rank = [](const entry& x) { return x.page; };
    slot = store_.disk_slot(lock_, *std::ranges::min_element(pages_, by_rank(), rank)->page);
  } catch (...) {
    if (!lock_)
      lock_.lock();
    pages_.resize(count);
    release(e);
    throw;
  }
  if (!slot) {
    pages_.pop_back();
    release(e);
    return false;
  }
  auto& write = pages_.back().write;
  write.slot = *slot;
  write.image = e.image;
  std::memcpy(&write.header, e.image, sizeof write.header);
  write.header.used = e.page->used;
  write.header.depth = e.page->depth;
  lock_.unlock();
  store_.file_->start(write);
  lock_.lock();
  return true;
}

void kv_store::page_writes::finish_one() {
  lock_.unlock();
  bool written = store_.file_->finish(pages_.front().write);
  const entry e = pages_.front();
  pages_.pop_front();
  if (written && e.staged && failed_ != none) { // without the page before it, it is worth nothing
    store_.file_->erase(e.write.slot);
    written = false;
  }
  lock_.lock();
  try {
    if (written && !store_.disk_lost_) {
      store_.pages_.put_on_disk(*e.page, e.write.slot);
      e.page->used_in_file = e.write.header.used;
      store_.counts_.saved += e.staged;
    } else {
      failed_ = std::min(failed_, e.number);
      store_.free_slots_.push_back(e.write.slot);
    }
  } catch (...) {
    release(e);
    throw;
  }
  release(e);
}

/// Writes a page that has to leave host memory for another, and at the same time those that would leave next.
void kv_store::write_victims(locked& lock, stored_page& first, const stored_page& page) {
  page_writes writes(*this, lock);
  // A page in flight is pinned, and so is not found again.
  for (auto* victim = &first; victim && !victim->is_on_disk() && writes.count() < kv_page_file::write_depth;
       victim = host_victim(page, eviction::may_write))
    if (!writes.start(*victim))
      break;
  writes.finish();
}

void kv_store::fill(std::byte* image, std::size_t number, const wanted& w, const copy_page& copy) const {
  const auto header = make_kv_slot_header(w.before, w.key, w.tokens);
  std::memcpy(image, &header, sizeof header);
  const auto page = page_in(image);
  std::fill(page.data() + page.size(), image + slot_bytes_, std::byte{}); // is written with it
  copy(number, page);
}

/// Some of the staging, for a page in flight to the file; null: there is none now. Restores need the rest, so that
/// they neither end nor have one read at a time.
std::byte* kv_store::staging_image(locked& lock, page_writes& writes) {
  const auto max = staging_.max_slots() < 4 ? 1 : staging_.max_slots() - 2;
  while (writes.failed() == page_writes::none) {
    auto* const image = writes.count() < max ? free_image(lock, staging_) : nullptr;
    if (image || writes.count() == 0)
      return image;
    writes.finish_one();
  }
  return nullptr;
}

/// Stores a page, or begins to write it; false: there is no room.
bool kv_store::save_one(locked& lock, page_writes& writes, std::size_t number, const wanted& w, const copy_page& copy) {
  assert(w.tokens.size() == kv_page_tokens);
  // The next page of a chain has the use of the one before it: they rank by their places, and none is touched twice.
  const auto* const parent = w.before == last_saved_ ? pages_.find(w.before) : nullptr;
  const auto used = parent ? parent->used : pages_.next_use();
  if (auto* const page = pages_.find(w.key); page && (page->is_in_host() || page->is_on_disk())) {
    pages_.touch(*page, used);
    last_saved_ = w.key;
    return true;
  }
  if (w.before == last_refused_) // without the page before it, it is worth nothing
    return false;
  if (auto* const first = pages_.find(w.before))
    pages_.touch(*first, used);
  const auto page = pages_.candidate(w.before, w.key, used);
  auto* image = host_image(lock, page, eviction::may_write);
  const bool in_host = image != nullptr;
  if (!image && file_ && file_->is_writable())
    image = staging_image(lock, writes);
  if (!image)
    return false;
  auto& slabs = in_host ? host_ : staging_;
  stored_page* added = nullptr;
  try {
    lock.unlock();
    fill(image, number, w, copy);
    lock.lock();
    added = &pages_.add(page);
    if (in_host)
      pages_.put_in_host(*added, image);
  } catch (...) {
    if (!lock)
      lock.lock();
    slabs.give_back(image);
    throw;
  }
  if (in_host)
    ++counts_.saved;
  else if (!writes.start(*added, image, number))
    return false;
  last_saved_ = w.key;
  if (last_refused_ == w.key)
    last_refused_ = {};
  return true;
}

std::size_t kv_store::save(std::span<const wanted> pages, const copy_page& copy) {
  locked lock(mutex_);
  page_writes writes(*this, lock);
  std::size_t n = 0;
  while (n < pages.size() && writes.failed() == page_writes::none && save_one(lock, writes, n, pages[n], copy))
    ++n;
  writes.finish();
  n = std::min(n, writes.failed());
  if (n < pages.size())
    last_refused_ = pages[n].key;
  return n;
}

void kv_store::flush(const std::function<bool()>& interrupted) {
  file_full_ = false; // other files may have gone
  locked lock(mutex_);
  page_writes writes(*this, lock);
  std::vector<page_key> missing;
  if (file_)
    for (const auto* page : pages_.host())
      if (!page->is_on_disk())
        missing.push_back(page->key);
  for (; !missing.empty() && !(interrupted && interrupted()); missing.pop_back()) {
    if (writes.count() == kv_page_file::write_depth)
      writes.finish_one();
    if (writes.failed() != page_writes::none)
      break; // those that follow rank lower
    auto* const page = pages_.find(missing.back());
    if (page && page->is_in_host() && !page->is_on_disk() && !writes.start(*page))
      break;
  }
  writes.finish();
}

} // namespace tropilla
