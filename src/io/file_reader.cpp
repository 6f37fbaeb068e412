// io_uring and pread behind one interface.
#include "src/io/file_reader.hpp"

#include "tropilla/error.hpp"

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <vector>

namespace tropilla {
namespace {

/// Open descriptors with their names.
class open_files {
public:
  explicit open_files(std::span<const std::filesystem::path> paths) {
    for (const auto& path : paths) {
      const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
      if (fd < 0) {
        const int cause = errno;
        close_all();
        throw error(errc::io_error, fmt::format("can't open {}: {}", path.string(), std::strerror(cause)));
      }
      files_.push_back({fd, path.string()});
    }
  }
  ~open_files() { close_all(); }
  open_files(const open_files&) = delete;
  open_files& operator=(const open_files&) = delete;

  [[nodiscard]] int descriptor(std::size_t file) const { return files_[file].descriptor; }
  [[nodiscard]] std::string failure(const read_request& r, std::string_view cause) const {
    return fmt::format("can't read {} bytes at offset {} of {}: {}", r.bytes, r.offset, files_[r.file].name, cause);
  }
  [[nodiscard]] std::string end_of_file(const read_request& r) const {
    return failure(r, "the file ended; it was truncated after it was opened");
  }

private:
  struct entry {
    int descriptor;
    std::string name;
  };
  void close_all() noexcept {
    for (const auto& f : files_)
      ::close(f.descriptor);
  }
  std::vector<entry> files_;
};

/// What is left of a read after some bytes arrived.
void advance(read_request& r, std::size_t bytes) {
  r.offset += bytes;
  r.destination += bytes;
  r.bytes -= bytes;
}

class pread_reader final : public file_reader {
public:
  pread_reader(std::span<const std::filesystem::path> paths, std::size_t depth)
      : files_(paths), depth_(depth), worker_([this](const std::stop_token& stop) { work(stop); }) {}

  void submit(const read_request& request) override {
    ++in_flight_;
    const std::lock_guard lock(mutex_);
    requests_.push_back(request);
    changed_.notify_all();
  }

  read_completion wait() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !completions_.empty(); });
    auto c = std::move(completions_.front());
    completions_.pop_front();
    --in_flight_;
    return c;
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_; }
  [[nodiscard]] std::size_t depth() const noexcept override { return depth_; }
  [[nodiscard]] std::string_view name() const noexcept override { return "pread"; }

private:
  void work(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [this] { return !requests_.empty(); })) {
      const auto request = requests_.front();
      requests_.pop_front();
      lock.unlock();
      read_completion c{request.tag, read(request)};
      lock.lock();
      completions_.push_back(std::move(c));
      changed_.notify_all();
    }
  }

  std::string read(read_request r) const {
    while (r.bytes > 0) {
      const auto n = ::pread(files_.descriptor(r.file), r.destination, r.bytes, static_cast<off_t>(r.offset));
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        return files_.failure(r, std::strerror(errno));
      if (n == 0)
        return files_.end_of_file(r);
      advance(r, static_cast<std::size_t>(n));
    }
    return {};
  }

  open_files files_;
  std::size_t depth_;
  std::size_t in_flight_ = 0; ///< of the owner's thread
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<read_request> requests_;
  std::deque<read_completion> completions_;
  std::jthread worker_; ///< last: stops before the rest goes
};

class uring_reader final : public file_reader {
public:
  uring_reader(std::span<const std::filesystem::path> paths, std::size_t depth) : files_(paths), requests_(depth) {
    if (const int rc = io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0); rc < 0)
      throw error(errc::io_error, fmt::format("the kernel refuses io_uring: {}", std::strerror(-rc)));
    for (std::size_t i = 0; i < depth; ++i)
      free_.push_back(i);
  }
  ~uring_reader() override {
    while (in_flight() > 0)
      (void)wait();
    io_uring_queue_exit(&ring_);
  }
  uring_reader(const uring_reader&) = delete;
  uring_reader& operator=(const uring_reader&) = delete;

  void submit(const read_request& request) override {
    const auto slot = free_.back();
    free_.pop_back();
    requests_[slot] = request;
    start(slot);
  }

  read_completion wait() override {
    for (;;) {
      io_uring_cqe* cqe = nullptr;
      if (const int rc = io_uring_wait_cqe(&ring_, &cqe); rc == -EINTR)
        continue;
      const auto slot = static_cast<std::size_t>(cqe->user_data);
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      auto& r = requests_[slot];
      if (result == -EINTR || result == -EAGAIN) {
        start(slot);
        continue;
      }
      if (result > 0)
        advance(r, static_cast<std::size_t>(result));
      if (result > 0 && r.bytes > 0) {
        start(slot);
        continue;
      }
      read_completion c{r.tag, {}};
      if (result < 0)
        c.failure = files_.failure(r, std::strerror(-result));
      else if (r.bytes > 0)
        c.failure = files_.end_of_file(r);
      free_.push_back(slot);
      return c;
    }
  }

  [[nodiscard]] std::size_t in_flight() const noexcept override { return requests_.size() - free_.size(); }
  [[nodiscard]] std::size_t depth() const noexcept override { return requests_.size(); }
  [[nodiscard]] std::string_view name() const noexcept override { return "io_uring"; }

private:
  void start(std::size_t slot) {
    const auto& r = requests_[slot];
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_); // never null: as many entries as slots
    io_uring_prep_read(sqe, files_.descriptor(r.file), r.destination, static_cast<unsigned>(r.bytes), r.offset);
    io_uring_sqe_set_data64(sqe, slot);
    io_uring_submit(&ring_);
  }

  open_files files_;
  io_uring ring_{};
  std::vector<read_request> requests_;
  std::vector<std::size_t> free_;
};

} // namespace

std::unique_ptr<file_reader> make_file_reader(std::span<const std::filesystem::path> files, std::size_t depth,
                                              io_method method) {
  if (method == io_method::pread)
    return std::make_unique<pread_reader>(files, depth);
  if (method == io_method::uring)
    return std::make_unique<uring_reader>(files, depth);
  io_uring probe{}; // containers and old kernels refuse the system call: ask before anything depends on it
  if (io_uring_queue_init(2, &probe, 0) < 0)
    return std::make_unique<pread_reader>(files, depth);
  io_uring_queue_exit(&probe);
  return std::make_unique<uring_reader>(files, depth);
}

} // namespace tropilla
