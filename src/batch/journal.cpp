// Reads and appends the output of a batch.
#include "src/batch/journal.hpp"

#include "src/batch/record.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tropilla {
namespace {

using namespace std::chrono_literals;

// A crash of the program loses nothing; one of the machine loses what was written since. fdatasync took 1 to 30 ms
// here.
constexpr auto sync_interval = 2s;
constexpr std::size_t longest_record = std::size_t{1} << 30;

[[noreturn]] void fail(std::string_view verb, const std::string& path, int number) {
  throw error(errc::io_error, fmt::format("can't {} {}: {}", verb, path, std::generic_category().message(number)));
}

} // namespace

bool line_set::insert(std::size_t line) {
  const auto next = std::ranges::upper_bound(ranges_, line, {}, &range::first);
  const bool after_one = next != ranges_.begin() && std::prev(next)->last + 1 >= line;
  if (after_one && std::prev(next)->last >= line)
    return false;
  const bool before_one = next != ranges_.end() && next->first == line + 1;
  if (after_one && before_one) {
    std::prev(next)->last = next->last;
    ranges_.erase(next);
  } else if (after_one) {
    std::prev(next)->last = line;
  } else if (before_one) {
    next->first = line;
  } else {
    ranges_.insert(next, {line, line});
  }
  return true;
}

bool line_set::contains(std::size_t line) const noexcept {
  const auto next = std::ranges::upper_bound(ranges_, line, {}, &range::first);
  return next != ranges_.begin() && std::prev(next)->last >= line;
}

bool require_same_input(int input, const std::string& name, const finished_lines& done, const std::string& output) {
  line_reader reader(input, name, fingerprinted_bytes);
  std::uint64_t sum = 0;
  std::size_t found = 0;
  bool left = false;
  while (found < done.records || !left) {
    const auto line = reader.wait();
    if (!line || (left && line->number > done.lines.largest()))
      break;
    if (!done.lines.contains(line->number)) {
      left = left || !line->blank();
      continue;
    }
    sum += line->fingerprint();
    ++found;
  }
  if (found != done.records || sum != done.fingerprints)
    throw error(errc::invalid_argument,
                fmt::format("the {} records of {} were made from other lines than those of {}; name another output, or "
                            "begin anew with --restart",
                            done.records, output, name));
  return left;
}

batch_journal::batch_journal(std::string path, bool restart)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0)
    fail("write", path_, errno);
  try {
    struct stat facts {};
    regular_ = ::fstat(descriptor_, &facts) == 0 && S_ISREG(facts.st_mode);
    if (!regular_)
      return;
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0)
      throw error(errc::busy, fmt::format("another process is writing to {}", path_));
    if (restart && ::ftruncate(descriptor_, 0) != 0)
      fail("empty", path_, errno);
    if (!restart)
      read_records();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

batch_journal::~batch_journal() {
  ::close(descriptor_);
}

void batch_journal::read_records() {
  line_reader reader(descriptor_, path_, longest_record);
  std::uint64_t whole = 0;
  while (const auto line = reader.wait()) {
    if (!line->ended) { // it was being written when the program was killed, or the disk was full
      if (::ftruncate(descriptor_, static_cast<off_t>(whole)) != 0)
        fail("cut the torn last line off", path_, errno);
      return;
    }
    whole += line->bytes;
    record_mark mark;
    try {
      mark = read_record(line->text);
    } catch (const error& e) {
      throw error(e.code(), fmt::format("line {} of {}: {}; name another output, or begin anew with --restart",
                                        line->number, path_, e.what()));
    }
    if (!done_.lines.insert(mark.line))
      throw error(errc::malformed_file,
                  fmt::format("{} has two records of line {} of the input; name another output, or begin anew with "
                              "--restart",
                              path_, mark.line));
    ++done_.records;
    done_.failed += mark.failed;
    done_.fingerprints += mark.fingerprint;
  }
}

void batch_journal::append(std::string_view record) {
  while (!record.empty()) {
    const ssize_t n = ::write(descriptor_, record.data(), record.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      fail("write", path_, errno);
    record.remove_prefix(static_cast<std::size_t>(n));
  }
  if (clock::now() - synced_ >= sync_interval)
    sync();
}

void batch_journal::sync() {
  if (regular_ && ::fdatasync(descriptor_) != 0)
    fail("write", path_, errno);
  synced_ = clock::now();
}

} // namespace tropilla
