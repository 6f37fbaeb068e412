// Finds room for KV pages in the tiers, and evicts what is worth less. What is saved: kv_store_writes.cpp; what is read
// back: kv_store_reads.cpp.
#include "src/io/kv_store.hpp"

#include "memory/bytes.hpp"
#include "src/io/kv_page_file.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <new>
#include <random>
#include <set>
#include <utility>
#include <xxhash.h>

namespace tropilla {
namespace {

constexpr std::size_t max_staging = 5;   ///< slots
constexpr std::size_t clean_search = 64; ///< pages that are looked at for one whose eviction costs no write

std::shared_ptr<std::byte> ordinary_memory(std::size_t bytes) {
  constexpr std::align_val_t page{kv_slot_alignment};
  return {static_cast<std::byte*>(::operator new(bytes, page)), [](std::byte* p) { ::operator delete(p, page); }};
}

page_key root_of(const packed_key& identity, std::uint64_t seed) {
  const std::array<std::uint64_t, 3> all{identity.high, identity.low, seed};
  const XXH128_hash_t hash = XXH3_128bits(all.data(), sizeof all);
  return {hash.high64, hash.low64};
}

/// Half of what is little, and of what is much no more than a few.
std::size_t staging_of(std::size_t slots, bool disk) {
  return !disk ? 0 : slots < 4 ? slots : std::clamp<std::size_t>(slots / 8, 2, max_staging);
}

} // namespace

kv_store::kv_store(kv_store_options o)
    : options_(std::move(o)), slot_bytes_(kv_slot_bytes(options_.page_bytes)), host_(slot_bytes_, 0),
      staging_(slot_bytes_, 0) {
  std::uint64_t seed = 0;
  if (options_.disk_bytes > 0)
    file_ = kv_page_file::open({options_.page_bytes, options_.disk_bytes, options_.folder, options_.identity,
                                options_.model_name, options_.notice});
  if (file_) {
    seed = file_->seed();
    load_pages();
  } else {
    std::random_device device;
    seed = std::uint64_t{device()} << 32 | device();
  }
  root_ = root_of(options_.identity, seed);
  const auto slots = options_.host_bytes / slot_bytes_;
  if (options_.host_bytes > 0 && slots < (file_ ? 2 : 1))
    say(fmt::format("host memory keeps no KV pages of {}: the budget is {}, and {} {}", options_.model_name,
                    format_bytes(options_.host_bytes), file_ ? "two pages have" : "a page has",
                    format_bytes_up(slot_bytes_ * (file_ ? 2 : 1))));
  const auto staging = staging_of(slots, file_ != nullptr);
  staging_ = kv_slabs(slot_bytes_, file_ && slots < 2 ? max_staging : staging);
  host_ = kv_slabs(slot_bytes_, slots - staging);
}

kv_store::~kv_store() {
  if (!file_)
    return;
  std::uint64_t slots = 0;
  for (const auto* page : pages_.disk()) {
    slots = std::max(slots, page->slot + 1);
    if (page->used != page->used_in_file)
      file_->set_used(page->slot, page->key, page->used);
  }
  if (!disk_lost_)
    file_->shrink(slots);
}

void kv_store::say(const std::string& sentence) const {
  try {
    if (options_.notice)
      options_.notice(sentence);
  } catch (const std::exception&) { // what could not be said must not stop what is being done
  }
}

void kv_store::load_pages() {
  std::vector<bool> in_use(file_->slots());
  for (const auto& found : file_->take_pages()) {
    stored_page page;
    page.key = found.key;
    page.before = found.before;
    page.used = page.used_in_file = found.used;
    page.depth = found.depth;
    page.slot = found.slot;
    in_use[found.slot] = pages_.add_from_disk(page);
  }
  pages_.settle();
  for (auto slot = file_->slots(); slot-- > 0;)
    if (!in_use[slot])
      free_slots_.push_back(slot);
}

std::size_t kv_store::stored(std::span<const page_key> keys) const {
  const std::lock_guard lock(mutex_);
  stored_page* last = nullptr;
  std::size_t n = 0;
  for (; n < keys.size(); ++n) {
    auto* const page = pages_.find(keys[n]);
    if (!page || !(page->is_in_host() || page->is_on_disk()))
      break;
    last = page;
  }
  if (last)
    pages_.touch(*last, pages_.next_use());
  return n;
}

kv_store_usage kv_store::usage() const {
  const std::lock_guard lock(mutex_);
  auto u = counts_;
  u.host_bytes = host_.bytes() + staging_.bytes();
  u.host_pages = pages_.host().size();
  u.disk_bytes = file_ ? file_->bytes() : 0;
  u.disk_pages = pages_.disk().size();
  return u;
}

void kv_store::trim() {
  const std::lock_guard only(trimming_);
  for (auto* slabs : {&host_, &staging_}) {
    locked lock(mutex_);
    auto released = slabs->begin_release();
    lock.unlock();
    released.clear();
    lock.lock();
    slabs->end_release();
  }
}

std::span<std::byte> kv_store::page_in(std::byte* image) const noexcept {
  return {image + sizeof(kv_slot_header), options_.page_bytes};
}

std::shared_ptr<std::byte> kv_store::allocate(std::size_t bytes) noexcept {
  const auto tell = [&](std::string_view why) {
    locked lock(mutex_);
    const bool told = std::exchange(told_memory_, true);
    lock.unlock();
    if (!told)
      try {
        say(fmt::format("host memory for KV pages of {} does not grow any more: {}", options_.model_name, why));
      } catch (const std::exception&) { // no memory for a sentence
      }
  };
  constexpr std::string_view none = "the system has none left";
  try {
    if (auto memory = options_.make_buffer ? options_.make_buffer(bytes) : ordinary_memory(bytes))
      return memory;
    tell(none);
  } catch (const std::bad_alloc&) {
    tell(none);
  } catch (const std::exception& e) {
    tell(e.what());
  }
  return nullptr;
}

std::byte* kv_store::free_image(locked& lock, kv_slabs& slabs) {
  for (;;) {
    if (auto* const image = slabs.take())
      return image;
    const auto slots = slabs.begin_growth();
    if (slots == 0)
      return nullptr;
    lock.unlock();
    auto memory = allocate(slots * slot_bytes_);
    lock.lock();
    slabs.end_growth(slots, std::move(memory));
  }
}

/// The page of the lowest rank that may leave host memory for another.
stored_page* kv_store::host_victim(const stored_page& page, eviction how) const {
  std::size_t looked = 0;
  for (auto* const victim : pages_.host()) {
    if (!by_rank()(victim, &page))
      return nullptr;
    if (victim->pins == 0 && (how == eviction::may_write || victim->is_on_disk()))
      return victim;
    if (++looked >= clean_search && how == eviction::never_writes)
      return nullptr;
  }
  return nullptr;
}

std::byte* kv_store::host_image(locked& lock, const stored_page& page, eviction how) {
  for (;;) {
    if (auto* const image = free_image(lock, host_))
      return image;
    auto* const victim = host_victim(page, how);
    if (!victim)
      return nullptr;
    if (!victim->is_on_disk()) {
      ++victim->pins;
      write_victims(lock, *victim, page);
      --victim->pins; // as `unpin`, for it is in host memory still
      if (victim->is_on_disk() || victim->pins > 0)
        continue; // it may have been used meanwhile
    }
    drop_from_host(*victim);
  }
}

void kv_store::drop_from_host(stored_page& page) {
  host_.give_back(page.image);
  pages_.drop_from_host(page);
}

void kv_store::drop_from_disk(stored_page& page) {
  free_slots_.push_back(page.slot);
  pages_.drop_from_disk(page);
}

/// A slot for a page: a free one, one by which the file grows, or that of the page with the lowest rank.
std::optional<std::uint64_t> kv_store::disk_slot(locked& lock, const stored_page& page) {
  while (file_ && file_->is_writable() && !disk_lost_) {
    if (!free_slots_.empty()) {
      const auto slot = free_slots_.back();
      free_slots_.pop_back();
      return slot;
    }
    if (!file_full_) {
      lock.unlock();
      const auto grown = file_->grow();
      lock.lock();
      file_full_ = !grown;
      for (std::uint64_t i = grown ? grown->count : 0; i-- > 0;)
        free_slots_.push_back(grown->first + i);
      continue;
    }
    const auto& disk = pages_.disk();
    const auto it = std::ranges::find_if(disk, [](const stored_page* p) { return p->pins == 0; });
    if (it == disk.end() || !by_rank()(*it, &page))
      break;
    stored_page gone = **it;
    drop_from_disk(**it);
    if (!gone.is_in_host())
      drop_orphans(gone);
  }
  return std::nullopt;
}

/// Forgets what follows a page that is gone. On the disk nothing does, for it would rank lower; in host memory only
/// pages may that the disk had no room for.
void kv_store::drop_orphans(stored_page& gone) {
  std::set<page_key> lost{gone.key};
  std::vector<stored_page*> orphans;
  for (auto it = pages_.host().lower_bound(&gone); it != pages_.host().begin();) {
    auto* const page = *--it; // from high to low: after the page before it
    if (page->pins > 0 || page->is_on_disk() || !lost.contains(page->before))
      continue;
    lost.insert(page->key);
    orphans.push_back(page);
  }
  for (auto* const page : orphans)
    drop_from_host(*page);
}

} // namespace tropilla
