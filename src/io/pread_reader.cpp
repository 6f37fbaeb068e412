// Reads by a few threads that block: where io_uring is refused, and from mappings.
#include "src/io/open_files.hpp"

#include "kernels/threads.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace tropilla {
namespace {

// Four, on two cores: they wait more than they work. 512 scattered rows take 27 ms with one, 10 ms with four (bench_io
// FILE rows); of large reads two threads already get all that the disk gives.
constexpr std::size_t pool_threads = 4;

/// One call's worth of a read: bytes, or minus an errno. Called by several threads at once.
using read_call = std::function<long(const read_request&)>;

long call_pread(const open_files& files, const read_request& r) {
  const auto n = ::pread(files.descriptor(r.file), r.destination, r.bytes, static_cast<off_t>(r.offset));
  return n < 0 ? -errno : static_cast<long>(n);
}

/// The files as memory.
class mappings {
public:
  mappings(const open_files& files, bool scattered) {
    for (std::size_t i = 0; i < files.count(); ++i) {
      struct stat facts {};
      void* memory = MAP_FAILED;
      if (::fstat(files.descriptor(i), &facts) == 0 && facts.st_size > 0)
        memory =
            ::mmap(nullptr, static_cast<std::size_t>(facts.st_size), PROT_READ, MAP_SHARED, files.descriptor(i), 0);
      if (memory != MAP_FAILED && scattered) // else a fault reads its neighbourhood, too: 450 ms for 512 rows, not 14
        (void)::madvise(memory, static_cast<std::size_t>(facts.st_size), MADV_RANDOM);
      all_ = all_ && memory != MAP_FAILED;
      files_.push_back({memory, memory == MAP_FAILED ? 0 : static_cast<std::size_t>(facts.st_size)});
    }
  }
  ~mappings() {
    for (const auto& f : files_)
      if (f.bytes > 0)
        ::munmap(f.memory, f.bytes);
  }
  mappings(const mappings&) = delete;
  mappings& operator=(const mappings&) = delete;

  /// Whether all files are mapped and this process may copy from them as `copy` does.
  [[nodiscard]] bool usable() const {
    std::byte probe{};
    return all_ && !files_.empty() && copy({0, 0, &probe, 1}) == 1;
  }

  /// memcpy would end the process (SIGBUS) where the file was truncated after it was mapped; the kernel's own copy
  /// stops there instead.
  [[nodiscard]] long copy(const read_request& r) const {
    const auto& f = files_[r.file];
    if (r.offset >= f.bytes)
      return 0;
    const std::size_t bytes = std::min<std::size_t>(r.bytes, f.bytes - r.offset);
    const iovec to{r.destination, bytes};
    const iovec from{static_cast<std::byte*>(f.memory) + r.offset, bytes};
    const auto n = ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0);
    drop(static_cast<std::byte*>(f.memory), r.offset, bytes);
    if (n >= 0)
      return static_cast<long>(n);
    return errno == EFAULT ? 0 : -errno;
  }

private:
  /// What was copied stays in the page cache, and does not count as this process's: the budget is for its copy alone.
  static void drop(std::byte* memory, std::uint64_t offset, std::size_t bytes) {
    static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t first = offset / page * page;
    (void)::madvise(memory + first, offset + bytes - first, MADV_DONTNEED);
  }

  struct mapped {
    void* memory;
    std::size_t bytes;
  };
  std::vector<mapped> files_;
  bool all_ = true;
};

/// Slot numbers, first in, first out; allocates nothing after it was made.
class fifo {
public:
  explicit fifo(std::size_t most) : slots_(most) {}
  [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
  void push(std::size_t slot) { slots_[(first_ + count_++) % slots_.size()] = slot; }
  std::size_t pop() {
    const auto slot = slots_[first_];
    first_ = (first_ + 1) % slots_.size();
    --count_;
    return slot;
  }

private:
  std::vector<std::size_t> slots_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

class pread_reader final : public file_reader {
public:
  pread_reader(std::unique_ptr<open_files> files, std::size_t depth, std::unique_ptr<mappings> mapped)
      : files_(std::move(files)), mapped_(std::move(mapped)), reads_(depth), requested_(depth), completed_(depth) {
    for (std::size_t i = 0; i < depth; ++i)
      free_.push_back(i);
    if (mapped_)
      call_ = [this](const read_request& r) { return mapped_->copy(r); };
    else
      call_ = [this](const read_request& r) { return call_pread(*files_, r); };
    for (std::size_t i = 0; i < std::min(depth, pool_threads); ++i)
      try {
        workers_.push_back(start_thread("reading files", [this](const std::stop_token& stop) { work(stop); }));
      } catch (const error&) {
        if (workers_.empty())
          throw;
        break; // with fewer it is only slower
      }
  }

  void submit_all(std::span<const read_request> requests) override {
    const std::lock_guard lock(mutex_);
    for (const auto& r : requests) {
      const auto slot = free_.back();
      free_.pop_back();
      reads_[slot] = pending_read(r);
      requested_.push(slot);
    }
    if (requests.size() == 1)
      work_.notify_one();
    else
      work_.notify_all();
  }

  read_completion wait() override {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return !completed_.empty(); });
    const auto slot = completed_.pop();
    free_.push_back(slot);
    return reads_[slot].completion();
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override { return reads_.size() - free_.size(); }
  [[nodiscard]] std::size_t depth() const noexcept override { return reads_.size(); }
  [[nodiscard]] std::string_view name() const noexcept override { return mapped_ ? "mmap" : "pread"; }
  [[nodiscard]] io_mode mode() const noexcept override { return mapped_ ? io_mode::mmap : files_->mode(); }
  [[nodiscard]] std::size_t alignment() const noexcept override { return files_->alignment(); }

private:
  /// After a stop, what was requested is still read: its destinations are valid until then, and the owner may wait.
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (work_.wait(lock, stop, [this] { return !requested_.empty(); })) {
      const auto slot = requested_.pop();
      lock.unlock();
      while (!reads_[slot].take(call_(reads_[slot].rest()), *files_)) {
      }
      lock.lock();
      completed_.push(slot);
      done_.notify_one();
    }
  }

  std::unique_ptr<open_files> files_;
  std::unique_ptr<mappings> mapped_;
  read_call call_;
  std::mutex mutex_;
  std::condition_variable_any work_;
  std::condition_variable done_;
  std::vector<pending_read> reads_; ///< a slot is one thread's while its read is under way
  std::vector<std::size_t> free_;   ///< of the owner's thread
  fifo requested_, completed_;
  std::vector<std::jthread> workers_; ///< last: they stop before the rest goes
};

} // namespace

std::unique_ptr<file_reader> make_pread_reader(std::unique_ptr<open_files> files, std::size_t depth, io_mode mode,
                                               bool scattered) {
  std::unique_ptr<mappings> mapped;
  if (mode == io_mode::mmap) {
    mapped = std::make_unique<mappings>(*files, scattered);
    if (!mapped->usable()) // an empty file, or a sandbox without process_vm_readv
      mapped.reset();
  }
  return std::make_unique<pread_reader>(std::move(files), depth, std::move(mapped));
}

} // namespace tropilla
