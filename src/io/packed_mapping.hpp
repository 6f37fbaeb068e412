/// Maps a packed entry, so that it is used where it lies in the page cache: processes share one copy, and nothing is
/// read twice.
///
/// The bytes are compared with their checksums once, before they are first used. After that another process may write
/// into the file or cut it short, or its disk may fail: `lost` finds that out, and is asked before anything that was
/// computed from the bytes is given away. It compares the file's time of change and length, which the system updates
/// before a write can be seen through the mapping; pages that are gone show as zeros (`guarded_range`). The contents of
/// a lost mapping are loaded again at the same addresses, which are memory of the process from then on, once for all
/// users of the mapping.
///
/// One fault is not found: a page that was checked, pushed out of the page cache, and read back wrong from a disk that
/// reports no error. Loaders that read for every step (`direct`, `buffered`) compare every time.
#pragma once

#include "src/io/guarded_range.hpp"
#include "src/io/packed_cache.hpp"

#include <ctime>
#include <map>
#include <mutex>

namespace tropilla {

/// The mapping of one entry. All functions may be called by any thread.
class packed_mapping {
public:
  /// A mapping of the whole open file, with a descriptor of its own. Null when the system refuses.
  [[nodiscard]] static std::shared_ptr<packed_mapping> make(int descriptor,
                                                            std::shared_ptr<const packed_format::file_header> header);
  ~packed_mapping();
  packed_mapping(const packed_mapping&) = delete;
  packed_mapping& operator=(const packed_mapping&) = delete;

  /// The whole file, page-aligned; sections lie at their `packed_file::offset`.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {begin_, bytes_}; }
  /// Its start. Only ranges that were claimed may be written to.
  [[nodiscard]] std::byte* data() const noexcept { return begin_; }
  /// Reads a range's pages in and compares a range of a section with its checksums. False when it is not what was
  /// written or can't be read. @pre as `packed_file::is_sound`.
  [[nodiscard]] bool is_sound(std::size_t section, std::uint64_t offset, std::size_t bytes) const noexcept;

  /// Whether the bytes may be others than those that were checked. Costs a system call as long as they are not.
  [[nodiscard]] bool lost() noexcept;
  /// Marks the bytes as lost.
  void lose() noexcept { range_.lose(); }

  enum class claim : std::uint8_t {
    mine,   ///< the caller fills the range, and then calls `filled`
    others, ///< another caller is filling it: ask again
    done,   ///< it was filled
    refused ///< the system has no memory
  };
  /// Makes a range of a lost mapping memory of the process, for one caller to fill. @pre it begins and ends at pages,
  /// and all callers use the same ranges.
  [[nodiscard]] claim claim_range(std::byte* begin, std::size_t bytes);
  /// `whole`: it has its bytes; else another may claim it.
  void filled(const std::byte* begin, bool whole);

private:
  packed_mapping(int descriptor, std::shared_ptr<const packed_format::file_header> header, std::byte* begin,
                 std::size_t bytes);

  enum class content : std::uint8_t { none, in_flight, whole };
  const int descriptor_;
  const std::shared_ptr<const packed_format::file_header> header_;
  std::byte* const begin_;
  const std::size_t bytes_;
  guarded_range range_;
  timespec changed_{}; ///< when the file was written last, as this was made
  std::mutex mutex_;
  std::map<const std::byte*, content> own_; ///< ranges that are memory of the process
};

} // namespace tropilla
