/// Keeps KV pages outside of the devices: in host memory, and behind that in a file that the next run finds again.
///
/// Each tier has a budget that it never exceeds. A page goes to host memory first; one that has to leave it is written
/// to the file, unless it is there already, together with those that would leave next; one that has to leave both is
/// gone. A page that is read from the file stays in host memory if that has room, or pages of lower rank that are in
/// the file as well: making room for it never costs a write. `stored_pages` says which pages leave first.
///
/// Host memory holds images of slots as `src/io/kv_page_format.hpp` describes them, so that a slot is one read. A few
/// slots of the host budget are staging: pages pass through them on their way between devices and disk. Without a
/// budget for host memory there are five such slots, and nothing else.
#pragma once

#include "src/io/kv_slabs.hpp"
#include "src/io/packed_cache.hpp"
#include "src/io/stored_pages.hpp"
#include "src/model/page_store.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

class kv_page_file;
struct kv_slot_header;

struct kv_store_options {
  std::size_t page_bytes = 0; ///< of a page with all its layers
  std::size_t host_bytes = 0; ///< the host tier's budget; 0: no such tier
  std::size_t disk_bytes = 0; ///< the budget of all files of the folder; 0: no disk tier
  std::filesystem::path folder;
  packed_key identity;    ///< of the model, the type of its KV and how they are computed; names the file
  std::string model_name; ///< for messages
  /// Takes a sentence for people, on the thread that meets its reason. May be empty.
  std::function<void(std::string_view)> notice;
  /// Makes memory that begins at a multiple of 4096: page-locked memory for GPUs. May throw, or return null: the store
  /// does with what it has. Empty: ordinary memory.
  std::function<std::shared_ptr<std::byte>(std::size_t)> make_buffer;
};

struct kv_store_usage {
  std::size_t host_bytes = 0; ///< of memory, staging included
  std::size_t host_pages = 0;
  std::uint64_t disk_bytes = 0; ///< of this model's file
  std::size_t disk_pages = 0;
  // Since the store was made:
  std::uint64_t saved = 0;    ///< pages that were not stored before
  std::uint64_t restored = 0; ///< pages that were given to `use`
  std::uint64_t damaged = 0;  ///< pages that were dropped, because they could not be read or were not what was written
};

/// One thread saves, one restores, at the same time; any thread asks. What a callback throws goes to the caller, and
/// leaves the store as it was. Neither callback is called with a lock held; neither may call the store.
class kv_store final : public page_index {
public:
  /// A page, and what must be on it.
  struct wanted {
    page_key before, key;
    std::span<const token_id> tokens; ///< `kv_page_tokens`
  };
  using copy_page = std::function<void(std::size_t, std::span<std::byte>)>;
  using use_page = std::function<void(std::size_t, std::span<const std::byte>)>;

  /// A disk that can't be used is a notice, and no disk tier.
  explicit kv_store(kv_store_options o);
  /// Leaves what is in the file; `flush` has to be called before. @pre no other function runs
  ~kv_store() override;
  kv_store(const kv_store&) = delete;
  kv_store& operator=(const kv_store&) = delete;

  // Any thread; without waiting for the disk.

  [[nodiscard]] page_key root() const noexcept override { return root_; }
  /// Counts as a use of these pages. A page may be gone when it is asked for later: `restore` then ends before it.
  [[nodiscard]] std::size_t stored(std::span<const page_key> keys) const override;
  /// Gives memory without pages in it back to the system.
  void trim();
  [[nodiscard]] kv_store_usage usage() const;

  // The thread that saves.

  /// Stores pages of a chain, in order, which `copy` fills in one by one; a page that is stored already counts as used.
  /// Without a host tier, and where that has only pages of higher rank, pages are written to the disk, some at a time,
  /// and are stored when they are there. Ends at the first for which there is no room, or was none for the page before
  /// it just now, or the disk fails. Returns how many are stored.
  std::size_t save(std::span<const wanted> pages, const copy_page& copy);
  /// Writes the pages that are in host memory only to the file, some at a time, the highest rank first, as far as it
  /// has room, and until `interrupted`, where that is given, says so between two pages.
  void flush(const std::function<bool()>& interrupted = {});

  // The thread that restores.

  /// Gives pages in order to `use`, and meanwhile reads those that follow. Ends at the first that is not stored, can't
  /// be read or is damaged; the last two are dropped, and the first such page is a notice. Returns how many it gave.
  std::size_t restore(std::span<const wanted> pages, const use_page& use);
  /// Reads pages from the file to host memory, as far as that takes them.
  void prefetch(std::span<const wanted> pages);

private:
  class page_reads;
  class page_writes;
  using locked = std::unique_lock<std::mutex>;
  enum class eviction : std::uint8_t { may_write, never_writes };

  void say(const std::string& sentence) const;
  [[nodiscard]] std::size_t staging_slots(std::size_t slots) const;
  void open_file();
  void load_pages();
  [[nodiscard]] std::shared_ptr<std::byte> allocate(std::size_t bytes) noexcept;
  // These may let go of the lock for a while:
  /// A free slot without evicting.
  [[nodiscard]] std::byte* free_image(locked& lock, kv_slabs& slabs);
  [[nodiscard]] std::byte* host_image(locked& lock, const stored_page& page, eviction how);
  [[nodiscard]] std::byte* staging_image(locked& lock, page_writes& writes);
  [[nodiscard]] std::optional<std::uint64_t> disk_slot(locked& lock, const stored_page& page);
  void write_victims(locked& lock, stored_page& first, const stored_page& page);
  [[nodiscard]] bool save_one(locked& lock, page_writes& writes, std::size_t number, const wanted& w,
                              const copy_page& copy);

  [[nodiscard]] stored_page* host_victim(const stored_page& page, eviction how) const;
  void drop_from_host(stored_page& page);
  void drop_from_disk(stored_page& page);
  void drop_orphans(stored_page& gone);
  void fill(std::byte* image, std::size_t number, const wanted& w, const copy_page& copy) const;
  [[nodiscard]] std::span<std::byte> page_in(std::byte* image) const noexcept;

  kv_store_options options_;
  std::size_t slot_bytes_;
  page_key root_;
  std::unique_ptr<kv_page_file> file_;

  mutable std::mutex mutex_;
  mutable stored_pages pages_;
  kv_slabs host_, staging_;
  std::vector<std::uint64_t> free_slots_; ///< of the file
  bool disk_lost_ = false;                ///< the queue for reads broke
  kv_store_usage counts_;
  bool told_memory_ = false, told_damage_ = false;
  std::mutex trimming_; ///< one at a time

  // Used by the thread that saves alone.
  page_key last_saved_, last_refused_;
  bool file_full_ = false;
};

} // namespace tropilla
