/// Chains of KV pages, a folder for their files, and memory that is watched: for tests of the store.
#pragma once

#include "src/io/kv_page_format.hpp"
#include "src/io/kv_store.hpp"

#include "tests/support/tiny_model.hpp"

#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <vector>

namespace tropilla::testing {

inline constexpr std::size_t small_page = 5000; ///< bytes; a slot has 8192
inline constexpr std::size_t small_slot = 8192;
static_assert(kv_slot_bytes(small_page) == small_slot);

/// The bytes of a file with so many small pages.
constexpr std::uint64_t file_of(std::uint64_t pages) {
  return kv_slot_offset(pages, small_slot);
}

/// A folder that is not there yet, and is gone afterwards.
struct kv_folder {
  explicit kv_folder(const char* name) : path(scratch() / "kv" / name) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(scratch() / "kv");
  }
  ~kv_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  kv_folder(const kv_folder&) = delete;
  kv_folder& operator=(const kv_folder&) = delete;
  /// Bytes of all files of KV pages.
  [[nodiscard]] std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    std::error_code failed;
    for (const auto& file : std::filesystem::directory_iterator(path, failed))
      sum += file.file_size();
    return sum;
  }
  std::filesystem::path path;
};

/// Sentences that were said, from any thread.
struct notices {
  mutable std::mutex mutex;
  std::vector<std::string> all;
  std::function<void(std::string_view)> taker() {
    return [this](std::string_view sentence) {
      const std::lock_guard lock(mutex);
      all.emplace_back(sentence);
    };
  }
  [[nodiscard]] std::string text() const {
    const std::lock_guard lock(mutex);
    std::string out;
    for (const auto& sentence : all)
      out += sentence + '\n';
    return out;
  }
  /// How many of them have these words.
  [[nodiscard]] std::size_t with(std::string_view words) const {
    const std::lock_guard lock(mutex);
    std::size_t n = 0;
    for (const auto& sentence : all)
      n += sentence.find(words) != std::string::npos;
    return n;
  }
};

/// Memory for slabs whose sum is watched.
struct watched_memory {
  std::atomic<std::size_t> bytes = 0, peak = 0;
  std::atomic<bool> refuses = false;
  std::function<std::shared_ptr<std::byte>(std::size_t)> maker() {
    return [this](std::size_t n) -> std::shared_ptr<std::byte> {
      if (refuses)
        return nullptr;
      const auto now = bytes += n;
      for (auto before = peak.load(); before < now && !peak.compare_exchange_weak(before, now);) {
      }
      constexpr std::align_val_t page{4096};
      return {static_cast<std::byte*>(::operator new(n, page)), [this, n](std::byte* p) {
                ::operator delete(p, page);
                bytes -= n;
              }};
    };
  }
};

/// The full pages of a sequence, with contents that follow from their keys.
struct chain {
  std::vector<token_id> tokens;
  std::vector<page_key> keys;
  page_key root;

  chain(page_key r, std::size_t pages, token_id first) : tokens(pages * kv_page_tokens, first), root(r) {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] += static_cast<token_id>(i);
    add_page_keys(root, tokens, keys);
  }
  [[nodiscard]] std::size_t size() const { return keys.size(); }
  [[nodiscard]] page_key before(std::size_t page) const { return page == 0 ? root : keys[page - 1]; }
  [[nodiscard]] std::span<const token_id> tokens_of(std::size_t page) const {
    return std::span(tokens).subspan(page * kv_page_tokens, kv_page_tokens);
  }
  [[nodiscard]] std::vector<kv_store::wanted> wanted(std::size_t first = 0) const {
    std::vector<kv_store::wanted> out;
    for (std::size_t i = first; i < size(); ++i)
      out.push_back({before(i), keys[i], tokens_of(i)});
    return out;
  }
};

inline void fill_page(const page_key& key, std::span<std::byte> page) {
  for (std::size_t i = 0; i < page.size(); ++i)
    page[i] = static_cast<std::byte>((key.low >> (i % 8 * 8)) + i / 8);
}

inline bool is_filled(const page_key& key, std::span<const std::byte> page) {
  std::vector<std::byte> right(page.size());
  fill_page(key, right);
  return std::memcmp(right.data(), page.data(), page.size()) == 0;
}

inline bool save_page(kv_store& store, const chain& c, std::size_t page) {
  const kv_store::wanted one{c.before(page), c.keys[page], c.tokens_of(page)};
  return store.save({&one, 1}, [&](std::size_t, std::span<std::byte> to) { fill_page(c.keys[page], to); }) == 1;
}

/// Saves pages in order; how many were stored.
inline std::size_t save(kv_store& store, const chain& c) {
  return store.save(c.wanted(), [&](std::size_t page, std::span<std::byte> to) { fill_page(c.keys[page], to); });
}

/// Restores all pages, of which no byte may be wrong; how many there were.
inline std::size_t restore(kv_store& store, const chain& c) {
  std::size_t right = 0;
  const auto n = store.restore(c.wanted(), [&](std::size_t page, std::span<const std::byte> bytes) {
    right += page == right && bytes.size() == small_page && is_filled(c.keys[page], bytes);
  });
  return n == right ? n : 1000000 + n;
}

inline std::size_t stored(const kv_store& store, const chain& c) {
  return store.stored(c.keys);
}

/// A store, what it says, and what it allocates.
struct kept_pages {
  notices said;
  watched_memory memory;
  std::optional<kv_store> store;

  static kv_store_options options(std::size_t host_slots, std::uint64_t disk_pages, const std::filesystem::path& folder,
                                  std::uint64_t model = 7) {
    kv_store_options o;
    o.page_bytes = small_page;
    o.host_bytes = host_slots * small_slot;
    o.disk_bytes = disk_pages == 0 ? 0 : file_of(disk_pages);
    o.folder = folder;
    o.identity = {1, model};
    o.model_name = "a model";
    return o;
  }
  explicit kept_pages(kv_store_options o) {
    o.notice = said.taker();
    o.make_buffer = memory.maker();
    store.emplace(std::move(o));
  }
  kept_pages(std::size_t host_slots, std::uint64_t disk_pages, const std::filesystem::path& folder = {},
             std::uint64_t model = 7)
      : kept_pages(options(host_slots, disk_pages, folder, model)) {}
  ~kept_pages() { store.reset(); }
};

} // namespace tropilla::testing
