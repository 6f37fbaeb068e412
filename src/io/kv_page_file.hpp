/// Keeps KV pages of one model in a file, from one run to the next: src/io/kv_page_format.hpp says how.
///
/// It reads, writes, grows and shares the folder; which page lies in which slot, and which one has to go, is its
/// owner's to know.
#pragma once

#include "src/io/file_reader.hpp"
#include "src/io/file_writer.hpp"
#include "src/io/kv_page_format.hpp"

#include <array>
#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tropilla {

class kv_page_file {
public:
  struct options {
    std::size_t page_bytes = 0;
    std::uint64_t max_bytes = 0; ///< of all files of the folder
    std::filesystem::path folder;
    packed_key identity;
    std::string model_name;
    std::function<void(std::string_view)> notice; ///< may be empty; called by the thread that meets the reason
    io_method method = io_method::automatic;      ///< of reads and writes of pages
  };
  /// A slot that is in use.
  struct kept_page {
    std::uint64_t slot = 0;
    page_key key, before;
    std::uint64_t used = 0;
    std::uint32_t depth = 0;
  };
  struct slot_range {
    std::uint64_t first = 0, count = 0;
  };
  /// A page that is written to a slot. It stays where it is, and so does its image, until `finish` was called.
  struct page_write {
    std::uint64_t slot = 0;
    kv_slot_header header{};          ///< the checksums are filled in
    const std::byte* image = nullptr; ///< of the slot; what it has as header is not read
    bool is_over = false;             ///< this and the next are for `finish`
    bool is_written = false;
  };
  /// Pages that are written at the same time. One, two, four and eight take equally long where the kernel has one
  /// thread for a file's writes (ext4: 0.18 to 0.2 ms a page of 720 KiB); the others are slack, as with reads.
  static constexpr std::size_t write_depth = 4;

  /// Makes or opens the file, locks it until the end, and reads the headers of its slots. Null after a notice.
  [[nodiscard]] static std::unique_ptr<kv_page_file> open(const options& o);
  ~kv_page_file();
  kv_page_file(const kv_page_file&) = delete;
  kv_page_file& operator=(const kv_page_file&) = delete;

  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }
  /// What the file held when it was opened; a second call has nothing.
  [[nodiscard]] std::vector<kept_page> take_pages() noexcept { return std::exchange(pages_, {}); }
  [[nodiscard]] std::uint64_t slots() const noexcept { return slots_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return kv_slot_offset(slots(), slot_bytes_); }

  // One thread at a time.

  /// False where the file can only be read, and after writes have failed time and again.
  [[nodiscard]] bool is_writable() const noexcept { return writable_; }
  /// Makes the file longer by some slots, for which other models' files may have to go. None when the budget or the
  /// disk has no room.
  [[nodiscard]] std::optional<slot_range> grow();
  /// Begins to write a page to a slot that nothing else is done with: what is behind its first block, and when that is
  /// written the first block, whose header says that the page is there. Waits for another page where `write_depth` are
  /// in flight.
  void start(page_write& w) noexcept;
  /// Waits for a page that was begun. False, after a notice if it is the first failure, when it could not be written:
  /// the slot is free.
  [[nodiscard]] bool finish(page_write& w) noexcept;
  /// Changes the count of a page's last use.
  void set_used(std::uint64_t slot, const page_key& key, std::uint64_t used) const noexcept;
  /// Shortens the file to its first slots.
  void shrink(std::uint64_t slots) noexcept;

  // Any thread that has the slot for itself.

  /// Marks a slot as free.
  void erase(std::uint64_t slot) const noexcept;

  // The thread that reads.

  [[nodiscard]] file_reader& reader() noexcept { return *reader_; }
  /// The request for a slot's image. @pre `image` has `kv_slot_bytes` and is aligned as direct reads need it
  [[nodiscard]] read_request request(std::uint64_t slot, std::byte* image, std::uint64_t tag) const noexcept;
  /// Whether what was read is what was written, and the page that is wanted.
  [[nodiscard]] bool is_intact(const std::byte* image, const page_key& before, const page_key& key,
                               std::span<const token_id> tokens) const noexcept;

private:
  /// The first bytes of a slot. Blocks are written whole: others have to be read first, which took 2 ms a page where
  /// the disk was busy.
  using first_block = std::array<std::byte, kv_slot_alignment>;
  struct write_in_flight {
    page_write* write = nullptr; ///< null: none
    bool writes_first = false;
  };

  explicit kv_page_file(const options& o);
  [[nodiscard]] std::string open_locked();
  [[nodiscard]] std::string take_over(std::uint64_t length);
  [[nodiscard]] std::string start_anew();
  [[nodiscard]] std::string fit_budget();
  [[nodiscard]] std::string scan();
  [[nodiscard]] bool extend_to(std::uint64_t slots) noexcept;
  void fail_write(int cause);
  void write_first(std::size_t number) noexcept;
  void wait_for_one() noexcept;
  void end_write(std::size_t number, int cause) noexcept;
  void end_all_writes(std::string_view why) noexcept;
  void stop_writes(std::string_view why);
  void say(const std::string& sentence) const;

  options options_;
  std::filesystem::path path_;
  std::size_t slot_bytes_;
  int descriptor_ = -1;
  std::uint64_t seed_ = 0;
  std::atomic<std::uint64_t> slots_ = 0;
  std::vector<kept_page> pages_;
  bool writable_ = true;
  bool grows_ = true;
  unsigned failures_ = 0; ///< writes in a row
  std::unique_ptr<file_reader> reader_;
  std::array<write_in_flight, write_depth> writes_{};
  std::vector<first_block> first_blocks_; ///< of `writes_`
  std::optional<file_writer> writer_;     ///< none where the file can only be read
};

} // namespace tropilla
