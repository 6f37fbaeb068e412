// Opens, grows and writes a file of KV pages, and mistrusts what it finds in it.
#include "src/io/kv_page_file.hpp"

#include "memory/bytes.hpp"
#include "src/files/whole_file.hpp"
#include "src/io/kv_folder.hpp"
#include "src/io/scattered_reader.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <new>
#include <random>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t growth_bytes = std::size_t{16} << 20; ///< at once, if a page is not larger
constexpr std::size_t read_depth = 8;
constexpr std::size_t scan_batch = 1024; ///< headers in memory at once
constexpr unsigned max_failures = 3;

std::string reason(int number) {
  return std::generic_category().message(number);
}

/// Where the kernel gives no queue of this depth, threads read.
std::unique_ptr<file_reader> reader_of(const fs::path& path, const reader_options& o) {
  const std::array files{path};
  try {
    return make_file_reader(files, o);
  } catch (const error&) {
    auto other = o;
    other.method = io_method::pread;
    return make_file_reader(files, other);
  }
}

template <class T>
bool read_value(int fd, T& value, std::uint64_t offset) noexcept {
  return read_exactly(fd, offset, std::as_writable_bytes(std::span(&value, 1)));
}

std::uint64_t random_seed() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

/// Whether half of a file or more is in the page cache.
bool is_cached(int fd, std::uint64_t bytes) noexcept {
  void* const at = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED)
    return true;
  const std::size_t piece = std::size_t{64} << 20, page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  std::size_t looked = 0, cached = 0;
  try {
    std::vector<unsigned char> pages(divide_up(piece, page));
    for (std::uint64_t from = 0; from < bytes; from += piece) {
      const auto count = divide_up(std::min<std::uint64_t>(piece, bytes - from), page);
      if (::mincore(static_cast<std::byte*>(at) + from, std::min<std::uint64_t>(piece, bytes - from), pages.data()) !=
          0)
        break;
      looked += count;
      cached +=
          static_cast<std::size_t>(std::count_if(pages.begin(), pages.begin() + static_cast<std::ptrdiff_t>(count),
                                                 [](unsigned char p) { return (p & 1) != 0; }));
    }
  } catch (const std::bad_alloc&) { // not worth an error
  }
  ::munmap(at, bytes);
  return 2 * cached >= looked;
}

/// Each folder that lacks, for its owner alone. An empty string, or the system's reason.
std::string make_folder(const fs::path& folder) {
  if (folder.empty() || ::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST)
    return "";
  if (errno == ENOENT && folder.has_parent_path() && folder.parent_path() != folder) {
    if (auto why = make_folder(folder.parent_path()); !why.empty())
      return why;
    if (::mkdir(folder.c_str(), 0700) == 0 || errno == EEXIST)
      return "";
  }
  return reason(errno);
}

} // namespace

kv_page_file::kv_page_file(const options& o)
    : options_(o), path_(o.folder / (o.identity.text() + std::string(kv_file_suffix))),
      slot_bytes_(kv_slot_bytes(o.page_bytes)) {}

kv_page_file::~kv_page_file() {
  writer_.reset();
  reader_.reset();
  if (descriptor_ >= 0)
    ::close(descriptor_);
}

void kv_page_file::say(const std::string& sentence) const {
  try {
    if (options_.notice)
      options_.notice(sentence);
  } catch (const std::exception&) { // what could not be said must not stop what is being done
  }
}

std::unique_ptr<kv_page_file> kv_page_file::open(const options& o) {
  std::unique_ptr<kv_page_file> file(new kv_page_file(o));
  const auto refuse = [&](const std::string& why) {
    file->say(fmt::format("no KV pages of {} are kept in {}: {}", o.model_name, o.folder.string(), why));
    return nullptr;
  };
  const auto least = kv_slot_offset(1, file->slot_bytes_);
  if (o.max_bytes < least)
    return refuse(fmt::format("the budget is {}, and a file with one page has {}", format_bytes(o.max_bytes),
                              format_bytes_up(least)));
  try {
    if (auto why = make_folder(o.folder); !why.empty())
      return refuse(why);
    const kv_folder_lock lock(o.folder);
    if (auto why = file->open_locked(); !why.empty())
      return refuse(why);
  } catch (const error& e) {
    return refuse(e.what());
  } catch (const std::exception& e) { // no memory for the list of pages, or no randomness
    return refuse(e.what());
  }
  return file;
}

std::string kv_page_file::open_locked() {
  descriptor_ = open_kv_file(path_, O_RDWR | O_CREAT);
  if (descriptor_ < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
    const int cause = errno;
    writable_ = grows_ = false;
    descriptor_ = open_kv_file(path_, O_RDONLY);
    if (descriptor_ < 0 && errno == ENOENT)
      errno = cause;
  }
  if (descriptor_ < 0)
    return errno == EWOULDBLOCK ? "another process has the file for this model" : reason(errno);
  struct stat facts {};
  if (::fstat(descriptor_, &facts) != 0)
    return reason(errno);
  // Measured with 50 MB: 35 ms directly and 50 to 90 through an empty page cache; 85 and 120 where they lie in it,
  // written a moment ago, and direct reads have to wait until they are on the disk.
  const auto mode =
      is_cached(descriptor_, static_cast<std::uint64_t>(facts.st_size)) ? io_mode::buffered : io_mode::direct;
  if (auto why = take_over(static_cast<std::uint64_t>(facts.st_size)); !why.empty())
    return why;
  if (writable_)
    (void)::futimens(descriptor_, nullptr); // the time of its last use
  else
    say(fmt::format("KV pages of {} are read from {}, and none are added: the file can't be written",
                    options_.model_name, path_.string()));
  if (auto why = scan(); !why.empty())
    return why;
  reader_ = reader_of(path_, {.depth = read_depth, .mode = mode, .method = options_.method});
  if (!writable_)
    return "";
  // Through the page cache, in any mode of reads. Measured with 500 pages of 720 KiB on a disk whose speed varies, ms a
  // page over new slots, over old ones, and when the last 64 are read a moment later:
  //
  //     buffered               0.20   0.20   0.11 buffered, 0.8 to 3 directly
  //     direct, one at a time  1.3    0.3    0.5
  //     direct, four           0.4    0.2    0.5
  //     direct, four, slow     2.4    2.1    1.0
  //
  // (1 MiB: 1.5 to 2 times as much.) A page of a device stays in use until it is written, so it should not wait for the
  // disk, and what leaves and comes back at once should come from memory. Direct writes leave the page cache as it is,
  // and buffered ones put all of that there; it is the system's to take back: in a control group of 128 MiB buffered
  // writes took 0.5 ms a page, direct ones 0.6 and 0.25.
  first_blocks_.resize(write_depth);
  writer_.emplace(descriptor_, write_depth, options_.method);
  return "";
}

/// Takes over a file that is what it should be; starts any other anew.
std::string kv_page_file::take_over(std::uint64_t length) {
  if (length == 0 && writable_)
    return start_anew();
  kv_file_header h{};
  std::string why = "it ends within its header";
  if (length >= kv_file_header_bytes)
    why = read_value(descriptor_, h, 0) ? mismatch(h, options_.identity, options_.page_bytes) : reason(EIO);
  if (why.empty()) {
    seed_ = h.seed;
    slots_ = (length - kv_file_header_bytes) / slot_bytes_; // part of a slot at the end is none
    return writable_ ? fit_budget() : "";
  }
  if (!writable_)
    return fmt::format("{} can't be used, nor written: {}", path_.string(), why);
  say(fmt::format("the KV pages of {} in {} are dropped: {}", options_.model_name, path_.string(), why));
  return start_anew();
}

std::string kv_page_file::start_anew() {
  seed_ = random_seed();
  slots_ = 0;
  std::array<std::byte, kv_file_header_bytes> block{};
  const auto h = make_kv_file_header(options_.identity, options_.page_bytes, seed_);
  std::memcpy(block.data(), &h, sizeof h);
  if (::ftruncate(descriptor_, 0) != 0)
    return reason(errno);
  if (auto why = fit_budget(); !why.empty())
    return why;
  const int cause = write_exactly(descriptor_, 0, block);
  if (cause == 0)
    return "";
  ::unlink(path_.c_str());
  return reason(cause);
}

/// Removes other files, then pages of this one, until the folder is within its budget.
std::string kv_page_file::fit_budget() {
  const auto others = remove_kv_files(path_, options_.max_bytes - std::min(bytes(), options_.max_bytes));
  if (others + kv_slot_offset(1, slot_bytes_) > options_.max_bytes) {
    ::unlink(path_.c_str());
    return fmt::format("other models' files in use have {} of the budget of {}", format_bytes(others),
                       format_bytes(options_.max_bytes));
  }
  const auto fitting = (options_.max_bytes - others - kv_file_header_bytes) / slot_bytes_;
  if (slots() > fitting)
    say(fmt::format("the file {} is shortened to {} of its {} pages: all files together may have {}", path_.string(),
                    fitting, slots(), format_bytes(options_.max_bytes)));
  shrink(std::min(slots(), fitting)); // in any case: the file's length may be anything
  return "";
}

std::string kv_page_file::scan() {
  const auto reader = reader_of(path_, {.depth = best_row_depth, .mode = io_mode::buffered, .scattered = true});
  std::vector<std::byte> scratch(scattered_reader::scratch_bytes(*reader, sizeof(kv_slot_header)));
  scattered_reader rows(*reader, sizeof(kv_slot_header), scratch);
  std::vector<kv_slot_header> headers(std::min<std::uint64_t>(slots(), scan_batch));
  std::vector<row_read> reads;
  for (std::uint64_t first = 0; first < slots(); first += headers.size()) {
    const auto count = std::min<std::uint64_t>(headers.size(), slots() - first);
    reads.clear();
    for (std::size_t i = 0; i < count; ++i)
      reads.push_back({0, kv_slot_offset(first + i, slot_bytes_), sizeof(kv_slot_header),
                       reinterpret_cast<std::byte*>(&headers[i])});
    if (!rows.read(reads).empty()) // a place that the disk can't read is no reason to lose the others
      for (std::size_t i = 0; i < count; ++i)
        if (!read_value(descriptor_, headers[i], reads[i].offset))
          headers[i] = {};
    for (std::size_t i = 0; i < count; ++i)
      if (const auto& h = headers[i]; is_sound(h, seed_))
        pages_.push_back({first + i, h.key(), h.before(), h.used, h.depth});
  }
  return "";
}

bool kv_page_file::extend_to(std::uint64_t slots) noexcept {
  const auto from = static_cast<off_t>(bytes()), to = static_cast<off_t>(kv_slot_offset(slots, slot_bytes_));
  int rc = 0;
  do
    rc = ::fallocate(descriptor_, 0, from, to - from); // a full disk shows here, and not with the first page
  while (rc != 0 && errno == EINTR);
  if (rc != 0 && errno == EOPNOTSUPP)
    rc = ::ftruncate(descriptor_, to);
  if (rc != 0) {
    const int cause = errno;
    (void)!::ftruncate(descriptor_, from); // what it got before it failed
    errno = cause;
    return false;
  }
  slots_ = slots;
  return true;
}

std::optional<kv_page_file::slot_range> kv_page_file::grow() {
  if (!writable_ || !grows_)
    return std::nullopt;
  const kv_folder_lock lock(options_.folder);
  const auto fitting_beside = [&](std::uint64_t others) {
    const auto used = others + bytes();
    return used < options_.max_bytes ? (options_.max_bytes - used) / slot_bytes_ : 0;
  };
  if (bytes() + slot_bytes_ > options_.max_bytes)
    return std::nullopt;
  const auto others = remove_kv_files(path_, options_.max_bytes - bytes() - slot_bytes_);
  const auto count =
      std::min<std::uint64_t>(fitting_beside(others), std::max<std::uint64_t>(growth_bytes / slot_bytes_, 1));
  if (count == 0)
    return std::nullopt;
  const auto first = slots();
  // Where the disk has no room for many, it may have room for one.
  for (const auto wanted : {count, std::uint64_t{1}})
    if (extend_to(first + wanted))
      return slot_range{first, wanted};
  fail_write(errno);
  failures_ = 0; // what is there can be written all the same
  return std::nullopt;
}

void kv_page_file::fail_write(int cause) {
  ++failures_;
  if (std::exchange(grows_, false))
    say(fmt::format("{} with KV pages of {} does not grow any more: {}", path_.string(), options_.model_name,
                    reason(cause)));
  if (failures_ >= max_failures)
    stop_writes(reason(cause));
}

void kv_page_file::stop_writes(std::string_view why) {
  grows_ = false;
  if (std::exchange(writable_, false))
    say(fmt::format("no more KV pages of {} are written to {}: {}", options_.model_name, path_.string(), why));
}

void kv_page_file::start(page_write& w) noexcept {
  assert(w.slot < slots() && !w.is_over);
  w.header.page_checksum = kv_page_checksum({w.image + sizeof w.header, options_.page_bytes});
  seal(w.header, seed_);
  const auto is_free = [](const write_in_flight& u) { return !u.write; };
  auto at = std::ranges::find_if(writes_, is_free);
  for (; writable_ && at == writes_.end(); at = std::ranges::find_if(writes_, is_free))
    wait_for_one();
  if (!writable_) {
    w.is_over = true;
    return;
  }
  at->write = &w;
  const auto number = static_cast<std::size_t>(at - writes_.begin());
  auto& first = first_blocks_[number];
  std::memcpy(first.data(), w.image, first.size());
  std::memcpy(first.data(), &w.header, sizeof w.header);
  if (slot_bytes_ == first.size())
    return write_first(number);
  writer_->submit(
      {kv_slot_offset(w.slot, slot_bytes_) + first.size(), w.image + first.size(), slot_bytes_ - first.size(), number});
}

void kv_page_file::write_first(std::size_t number) noexcept {
  auto& u = writes_[number];
  u.writes_first = true;
  const auto& first = first_blocks_[number];
  writer_->submit({kv_slot_offset(u.write->slot, slot_bytes_), first.data(), first.size(), number});
}

void kv_page_file::wait_for_one() noexcept {
  write_completion c;
  try {
    c = writer_->wait();
  } catch (const std::exception& e) { // the kernel's queue is broken, and what it has may still be written
    end_all_writes(e.what());
    return;
  }
  const auto number = static_cast<std::size_t>(c.tag);
  if (c.cause == 0 && !writes_[number].writes_first)
    write_first(number);
  else
    end_write(number, c.cause);
}

void kv_page_file::end_all_writes(std::string_view why) noexcept {
  try {
    stop_writes(why);
  } catch (const std::exception&) { // no memory for a sentence
  }
  for (std::size_t i = 0; i < writes_.size(); ++i)
    if (writes_[i].write)
      end_write(i, EIO);
}

void kv_page_file::end_write(std::size_t number, int cause) noexcept {
  auto& w = *std::exchange(writes_[number], {}).write;
  w.is_over = true;
  w.is_written = cause == 0;
  if (w.is_written) {
    failures_ = 0;
    return;
  }
  erase(w.slot); // the page before may be half there
  try {
    fail_write(cause);
  } catch (const std::exception&) { // no memory for a sentence
  }
}

bool kv_page_file::finish(page_write& w) noexcept {
  while (!w.is_over)
    wait_for_one();
  return w.is_written;
}

void kv_page_file::set_used(std::uint64_t slot, const page_key& key, std::uint64_t used) const noexcept {
  kv_slot_header h{};
  const auto offset = kv_slot_offset(slot, slot_bytes_);
  // A damaged header must not get a checksum that is right.
  if (!writable_ || !read_value(descriptor_, h, offset) || !is_sound(h, seed_) || h.key() != key)
    return;
  h.used = used;
  seal(h, seed_);
  (void)write_exactly(descriptor_, offset, std::as_bytes(std::span(&h, 1)));
}

void kv_page_file::shrink(std::uint64_t slots) noexcept {
  if (writable_ && ::ftruncate(descriptor_, static_cast<off_t>(kv_slot_offset(slots, slot_bytes_))) == 0)
    slots_ = slots;
}

void kv_page_file::erase(std::uint64_t slot) const noexcept {
  const kv_slot_header nothing{};
  (void)write_exactly(descriptor_, kv_slot_offset(slot, slot_bytes_), std::as_bytes(std::span(&nothing, 1)));
}

read_request kv_page_file::request(std::uint64_t slot, std::byte* image, std::uint64_t tag) const noexcept {
  return {0, kv_slot_offset(slot, slot_bytes_), image, slot_bytes_, tag, sizeof(kv_slot_header) + options_.page_bytes};
}

bool kv_page_file::is_intact(const std::byte* image, const page_key& before, const page_key& key,
                             std::span<const token_id> tokens) const noexcept {
  kv_slot_header h{};
  std::memcpy(&h, image, sizeof h);
  return is_sound(h, seed_) && is_page(h, before, key, tokens) &&
         h.page_checksum == kv_page_checksum({image + sizeof h, options_.page_bytes});
}

} // namespace tropilla
