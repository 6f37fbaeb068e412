// Reads KV pages back, several at a time, and checks them.
#include "src/io/kv_page_file.hpp"
#include "src/io/kv_store.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <utility>

namespace tropilla {

/// The pages of one call that are under way, in order. Each is pinned, and has its bytes in an image: its own in host
/// memory, a new one there, or one of the staging.
class kv_store::page_reads {
public:
  /// `use`: null to bring pages to host memory alone.
  page_reads(kv_store& store, std::span<const wanted> pages, const use_page* use)
      : store_(store), pages_(pages), use_(use) {
    touch();
  }
  /// Waits for reads, and lets go of pages and images.
  ~page_reads();
  page_reads(const page_reads&) = delete;
  page_reads& operator=(const page_reads&) = delete;

  std::size_t run();

private:
  enum class place : std::uint8_t { own, host, staging };
  struct entry {
    stored_page* page;
    std::byte* image = nullptr;
    place where = place::own;
    bool reading = false;
    std::string failure{};
  };
  void touch();
  void start_more();
  [[nodiscard]] bool start(locked& lock, std::vector<read_request>& batch);
  void wait_for_one();
  [[nodiscard]] bool arrive(entry& e);
  void keep(entry& e);
  void drop(entry& e);
  void release(entry& e);
  void lose_disk(std::string_view why);

  kv_store& store_;
  std::span<const wanted> pages_; ///< shortened when one is not there
  const use_page* use_;
  std::deque<entry> entries_;
  std::size_t done_ = 0; ///< pages before the first entry
  std::size_t staged_ = 0;
};

kv_store::page_reads::~page_reads() {
  const auto is_reading = [](const entry& e) { return e.reading; };
  try {
    while (std::ranges::any_of(entries_, is_reading))
      wait_for_one();
  } catch (...) { // no memory for a sentence, or for a queue: the kernel may write to these images yet
    for (auto& e : entries_)
      if (std::exchange(e.reading, false))
        e.image = nullptr;
  }
  const std::lock_guard lock(store_.mutex_);
  for (auto& e : entries_)
    release(e);
}

/// So that the first pages outrank the later ones, whatever was done with them before.
void kv_store::page_reads::touch() {
  const std::lock_guard lock(store_.mutex_);
  stored_page* last = nullptr;
  for (const auto& w : pages_) {
    auto* const page = store_.pages_.find(w.key);
    if (!page)
      break;
    last = page;
  }
  if (last)
    store_.pages_.touch(*last, store_.pages_.next_use());
}

/// Gives back what an entry holds. @pre the store is locked
void kv_store::page_reads::release(entry& e) {
  if (e.where == place::staging)
    --staged_;
  if (e.image && e.where == place::host)
    store_.host_.give_back(e.image);
  if (e.image && e.where == place::staging)
    store_.staging_.give_back(e.image);
  store_.pages_.unpin(*e.page);
}

void kv_store::page_reads::start_more() {
  const std::size_t depth = store_.file_ ? store_.file_->reader().depth() : 1;
  std::vector<read_request> batch;
  batch.reserve(depth);
  const auto submit = [&] {
    if (!batch.empty())
      store_.file_->reader().submit_all(batch);
  };
  locked lock(store_.mutex_);
  try {
    while (done_ + entries_.size() < pages_.size() && entries_.size() < depth && start(lock, batch)) {
    }
  } catch (...) {
    submit(); // a read that is noted is waited for
    throw;
  }
  lock.unlock();
  submit();
}

/// Begins with the next page; false when it has to wait, or there is none.
bool kv_store::page_reads::start(locked& lock, std::vector<read_request>& batch) {
  const auto number = done_ + entries_.size();
  const auto& w = pages_[number];
  auto* const page = store_.pages_.find(w.key);
  const auto end = [&] {
    pages_ = pages_.first(number);
    return false;
  };
  if (!page)
    return end();
  if (page->is_in_host()) {
    kv_slot_header header{};
    std::memcpy(&header, page->image, sizeof header);
    if (!is_page(header, w.before, w.key, w.tokens))
      return end();
    entries_.push_back({page, page->image});
    ++page->pins;
    return true;
  }
  if (!page->is_on_disk())
    return end();
  auto& e = entries_.emplace_back(entry{page});
  ++page->pins; // what follows may let go of the lock
  if (auto* const image = store_.host_image(lock, *page, eviction::never_writes)) {
    e.image = image;
    e.where = place::host;
  } else if (use_ && staged_ + 1 < store_.staging_.max_slots()) { // the last slot of the staging is for saves
    e.image = store_.free_image(lock, store_.staging_);
    e.where = place::staging;
    ++staged_;
  }
  if (!e.image) {
    release(e);
    entries_.pop_back();
    return entries_.empty() ? end() : false;
  }
  e.reading = true;
  batch.push_back(store_.file_->request(page->slot, e.image, number));
  return true;
}

void kv_store::page_reads::wait_for_one() {
  read_completion c;
  try {
    c = store_.file_->reader().wait();
  } catch (const error& e) {
    lose_disk(e.what());
    return;
  }
  auto& e = entries_[c.tag - done_];
  e.reading = false;
  e.failure = std::move(c.failure);
}

/// The kernel's queue is broken: nothing can be read any more, and what was being read may still be written to.
void kv_store::page_reads::lose_disk(std::string_view why) {
  for (auto& e : entries_)
    if (std::exchange(e.reading, false)) {
      e.failure = why;
      e.image = nullptr; // and is never given back
    }
  locked lock(store_.mutex_);
  store_.disk_lost_ = true;
  while (!store_.pages_.disk().empty())
    store_.pages_.drop_from_disk(**store_.pages_.disk().begin());
  lock.unlock();
  store_.say(fmt::format("KV pages of {} on the disk are not used any more: {}", store_.options_.model_name, why));
}

/// Waits for the first page; false when it is not what it should be.
bool kv_store::page_reads::arrive(entry& e) {
  while (e.reading)
    wait_for_one();
  if (e.where == place::own)
    return true;
  const auto& w = pages_[done_];
  return e.failure.empty() && store_.file_->is_intact(e.image, w.before, w.key, w.tokens);
}

/// Leaves a page that was read in host memory.
void kv_store::page_reads::keep(entry& e) {
  const std::lock_guard lock(store_.mutex_);
  if (e.where != place::host || e.page->is_in_host() || !e.page->is_on_disk())
    return;
  store_.pages_.put_in_host(*e.page, e.image);
  e.where = place::own;
}

void kv_store::page_reads::drop(entry& e) {
  if (e.page->is_on_disk())
    store_.file_->erase(e.page->slot); // before another page may be written there
  locked lock(store_.mutex_);
  if (e.page->is_on_disk())
    store_.drop_from_disk(*e.page);
  ++store_.counts_.damaged;
  const bool told = std::exchange(store_.told_damage_, true) || store_.disk_lost_;
  lock.unlock();
  if (!told)
    store_.say(
        fmt::format("a stored KV page of {} is dropped and computed again, and so is any other that is damaged: {}",
                    store_.options_.model_name, e.failure.empty() ? "it is not what was written" : e.failure));
}

std::size_t kv_store::page_reads::run() {
  for (start_more(); !entries_.empty(); start_more()) {
    auto& e = entries_.front();
    if (!arrive(e)) {
      drop(e);
      break;
    }
    keep(e);
    if (use_)
      (*use_)(done_, store_.page_in(e.image));
    const std::lock_guard lock(store_.mutex_);
    release(e);
    entries_.pop_front();
    ++done_;
    store_.counts_.restored += use_ != nullptr;
  }
  return done_;
}

std::size_t kv_store::restore(std::span<const wanted> pages, const use_page& use) {
  return page_reads(*this, pages, &use).run();
}

void kv_store::prefetch(std::span<const wanted> pages) {
  (void)page_reads(*this, pages, nullptr).run();
}

} // namespace tropilla
