// Writes by every method: several at once, in pieces, and files that take no more.
#include "src/io/file_writer.hpp"
#include "src/io/open_files.hpp"

#include "tests/support/little_disk.hpp"
#include "tests/support/tiny_model.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

using namespace tropilla;
using testing::little_disk;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t block = 4096;

/// A file with `bytes` zeros.
fs::path zeros(const char* name, std::size_t bytes) {
  auto path = testing::scratch() / name;
  std::ofstream(path, std::ios::binary).write(std::string(bytes, '\0').data(), static_cast<std::streamsize>(bytes));
  return path;
}

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct opened {
  explicit opened(const fs::path& path) : descriptor(::open(path.c_str(), O_WRONLY | O_CLOEXEC)) {
    REQUIRE(descriptor >= 0);
  }
  ~opened() { ::close(descriptor); }
  opened(const opened&) = delete;
  opened& operator=(const opened&) = delete;
  int descriptor;
};

/// Every way to write on this machine.
std::vector<io_method> ways_to_write() {
  return uring_works() ? std::vector{io_method::pread, io_method::uring} : std::vector{io_method::pread};
}

/// Letters that follow from their place.
std::string letters(std::size_t bytes) {
  std::string out(bytes, ' ');
  for (std::size_t i = 0; i < bytes; ++i)
    out[i] = static_cast<char>('a' + i * 7 / 5 % 26);
  return out;
}

const std::byte* bytes_at(const std::string& text, std::size_t offset) {
  return reinterpret_cast<const std::byte*>(text.data()) + offset;
}

} // namespace

TEST_CASE("several writes at once arrive by every method, each in its place") {
  constexpr std::size_t blocks = 200;
  const auto source = letters(blocks * block);
  for (const auto way : ways_to_write()) {
    const auto path = zeros("places.bin", blocks * block);
    const opened file(path);
    {
      file_writer writer(file.descriptor, 4, way);
      CHECK(writer.name() == (way == io_method::uring ? "io_uring" : "pwrite"));
      CHECK(writer.depth() == 4);
      std::vector<std::size_t> order(blocks);
      for (std::size_t i = 0; i < blocks; ++i)
        order[i] = i;
      std::shuffle(order.begin(), order.end(), std::mt19937(4));
      std::vector<bool> ended(blocks);
      const auto wait = [&] {
        const auto c = writer.wait();
        CHECK(c.cause == 0);
        CHECK_FALSE(ended[c.tag]);
        ended[c.tag] = true;
      };
      for (const auto i : order) {
        if (writer.in_flight() == writer.depth())
          wait();
        writer.submit({i * block, bytes_at(source, i * block), block, i});
      }
      wait(); // the others are waited for when it goes
      CHECK(writer.in_flight() == 3);
    }
    CHECK(content(path) == source);
  }
}

TEST_CASE("a file that takes no more is a cause, and what was written before stays") {
  const auto source = letters(8 * block);
  for (const auto way : ways_to_write())
    for (const std::size_t limit : {5 * block, 5 * block + 100}) {
      const auto path = zeros("little.bin", 0);
      const opened file(path);
      file_writer writer(file.descriptor, 4, way);
      INFO(writer.name() << ", " << limit << " bytes");
      {
        const little_disk disk(limit);
        for (std::size_t i = 0; i < 4; ++i)
          writer.submit({2 * i * block, bytes_at(source, 2 * i * block), 2 * block, i});
        std::vector<int> causes(4);
        while (writer.in_flight() > 0) {
          const auto c = writer.wait();
          causes[c.tag] = c.cause;
        }
        CHECK(causes == std::vector{0, 0, EFBIG, EFBIG});
      }
      CHECK(content(path) == source.substr(0, limit));
      writer.submit({6 * block, bytes_at(source, 6 * block), 2 * block, 9});
      CHECK(writer.wait().cause == 0);
      CHECK(fs::file_size(path) == 8 * block);
    }
}

TEST_CASE("a descriptor that can't be written to is a cause") {
  for (const auto way : ways_to_write()) {
    const auto path = zeros("read.bin", block);
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(descriptor >= 0);
    const auto source = letters(block);
    {
      file_writer writer(descriptor, 1, way);
      writer.submit({0, bytes_at(source, 0), block, 7});
      const auto c = writer.wait();
      CHECK(c.cause == EBADF);
      CHECK(c.tag == 7);
    }
    ::close(descriptor);
  }
}

TEST_CASE("what a system call returns decides how a write goes on") {
  const std::byte memory[64]{};
  pending_write w({10, memory, 60, 42});
  CHECK_FALSE(w.take(-EINTR));
  CHECK_FALSE(w.take(-EAGAIN));
  CHECK_FALSE(w.take(20));
  CHECK(w.rest().offset == 30);
  CHECK(w.rest().bytes == 40);
  CHECK(w.rest().source == memory + 20);
  CHECK(w.take(40));
  CHECK(w.completion().cause == 0);
  CHECK(w.completion().tag == 42);

  pending_write full({0, memory, 60, 1});
  CHECK_FALSE(full.take(10));
  CHECK(full.take(0));
  CHECK(full.completion().cause == ENOSPC);
  pending_write broken({0, memory, 60, 1});
  CHECK(broken.take(-EIO));
  CHECK(broken.completion().cause == EIO);
}
