// Reads in every mode and by every method: aligned ranges, tails, pieces, and files that change meanwhile.
#include "memory/rounding.hpp"
#include "src/io/file_reader.hpp"
#include "src/io/open_files.hpp"

#include "tests/support/skipped.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

using namespace tropilla;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t page = 4096;

struct aligned_memory {
  explicit aligned_memory(std::size_t bytes) : memory(static_cast<std::byte*>(std::aligned_alloc(page, bytes))) {
    std::memset(memory.get(), 0xee, bytes);
  }
  struct release {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, release> memory;
  [[nodiscard]] std::byte* at(std::size_t offset) const { return memory.get() + offset; }
};

std::vector<char> noise(std::size_t bytes, unsigned seed) {
  std::vector<char> out(bytes);
  std::minstd_rand random(seed);
  for (auto& c : out)
    c = static_cast<char>(random());
  return out;
}

fs::path write(const char* name, const std::vector<char>& content, const fs::path& folder = testing::scratch()) {
  auto path = folder / name;
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  return path;
}

std::unique_ptr<file_reader> open_one(const fs::path& path, const reader_options& options) {
  return make_file_reader({&path, 1}, options);
}

/// Every way to read on this machine.
std::vector<reader_options> all_ways() {
  std::vector<reader_options> out;
  for (const auto mode : {io_mode::buffered, io_mode::direct, io_mode::automatic})
    for (const auto method : {io_method::pread, io_method::uring})
      if (method == io_method::pread || uring_works())
        out.push_back({.depth = 3, .mode = mode, .method = method, .scattered = false});
  return out;
}

std::string title(const file_reader& r) {
  return std::string(r.name()) + " " + std::string(to_string(r.mode()));
}

} // namespace

TEST_CASE("the aligned range is the smallest around what is wanted") {
  std::minstd_rand random(5);
  for (int i = 0; i < 10000; ++i) {
    const std::size_t alignment = std::size_t{1} << random() % 14;
    const std::uint64_t offset = random() % 100000;
    const std::size_t bytes = 1 + random() % 20000;
    const auto c = align_range(offset, bytes, alignment);
    REQUIRE(c.offset % alignment == 0);
    REQUIRE(c.bytes % alignment == 0);
    REQUIRE(c.offset + c.skip == offset);
    REQUIRE(c.skip < alignment);
    REQUIRE(c.skip + bytes <= c.bytes);
    REQUIRE(c.skip + bytes + alignment > c.bytes);
    REQUIRE(c.bytes <= max_aligned_bytes(bytes, alignment));
  }
  CHECK(max_aligned_bytes(1000, 1) == 1000);
}

TEST_CASE("ranges anywhere in a file arrive in every mode, its odd end, too") {
  const auto content = noise(5 * page + 777, 1);
  const auto path = write("ranges.bin", content);
  for (const auto& way : all_ways()) {
    const auto reader = open_one(path, way);
    INFO(title(*reader));
    const std::size_t slot = round_up(max_aligned_bytes(3 * page, reader->alignment()), page);
    const aligned_memory slots(slot * way.depth);
    struct range {
      std::size_t offset, bytes, slot, skip;
    };
    std::vector<range> ranges(300);
    std::vector<std::size_t> free{0, 1, 2};
    std::minstd_rand random(2);
    for (std::size_t next = 0, done = 0; done < ranges.size();) {
      if (next < ranges.size() && !free.empty()) {
        auto& r = ranges[next];
        r.offset = next == 0 ? content.size() - 1 : random() % content.size();
        r.bytes = std::min<std::size_t>(1 + random() % (3 * page), content.size() - r.offset);
        r.slot = free.back();
        free.pop_back();
        const auto aligned = align_range(r.offset, r.bytes, reader->alignment());
        r.skip = aligned.skip;
        reader->submit(aligned_request(0, aligned, r.bytes, slots.at(r.slot * slot), next++));
        continue;
      }
      const auto c = reader->wait();
      REQUIRE(c.failure == "");
      const auto& r = ranges[c.tag];
      REQUIRE(c.bytes >= r.skip + r.bytes);
      REQUIRE(std::memcmp(slots.at(r.slot * slot + r.skip), content.data() + r.offset, r.bytes) == 0);
      free.push_back(r.slot);
      ++done;
    }
    CHECK(reader->in_flight() == 0);
  }
}

TEST_CASE("a batch of reads is started at once, and destruction waits for what nobody waited for") {
  const auto content = noise(64 * page, 3);
  const auto path = write("batch.bin", content);
  for (auto way : all_ways()) {
    way.depth = 64;
    const aligned_memory slots(64 * page);
    {
      const auto reader = open_one(path, way);
      INFO(title(*reader));
      std::vector<read_request> batch;
      for (std::size_t i = 0; i < way.depth; ++i)
        batch.push_back({0, i * page, slots.at(i * page), page, i, 0});
      reader->submit_all(batch);
      CHECK(reader->in_flight() == 64);
      CHECK(reader->wait().failure == "");
    }
    CHECK(std::memcmp(slots.at(0), content.data(), content.size()) == 0);
  }
}

TEST_CASE("a file system without O_DIRECT is read through the page cache") {
  const fs::path shm = "/dev/shm";
  std::error_code failed;
  if (!fs::is_directory(shm, failed)) {
    testing::skipped("there is no memory file system here");
    return;
  }
  const auto content = noise(3 * page + 5, 4);
  const auto path = write(("tropilla-test-" + std::to_string(::getpid())).c_str(), content, shm);
  const auto reader = open_one(path, {.depth = 1, .mode = io_mode::direct});
  fs::remove(path);
  const aligned_memory memory(4 * page);
  reader->submit({0, 0, memory.at(0), 4 * page, 9, content.size()});
  const auto c = reader->wait();
  CHECK(c.failure == "");
  CHECK(c.bytes == content.size());
  CHECK(std::memcmp(memory.at(0), content.data(), content.size()) == 0);
}

TEST_CASE("a file that is truncated while it is read is a sentence, in every mode") {
  for (const auto& way : all_ways()) {
    const auto path = write("truncated.bin", noise(8 * page, 5));
    const auto reader = open_one(path, way);
    INFO(title(*reader));
    const aligned_memory memory(8 * page);
    reader->submit({0, 0, memory.at(0), 4 * page, 1, 0});
    CHECK(reader->wait().failure == "");
    fs::resize_file(path, 5 * page + 100);
    reader->submit({0, 4 * page, memory.at(0), 4 * page, 2, 0});
    CHECK_THAT(reader->wait().failure, Catch::Contains("truncated.bin: the file ended; it was truncated"));
    fs::resize_file(path, page);
    reader->submit({0, 6 * page, memory.at(0), page, 3, 0});
    CHECK_THAT(reader->wait().failure,
               Catch::Contains("can't read 4.0 KiB at offset 24576") && Catch::Contains("truncated"));
  }
}

TEST_CASE("a file that is replaced while it is read goes on being read as it was") {
  for (const auto& way : all_ways()) {
    const auto content = noise(4 * page, 6);
    const auto path = write("replaced.bin", content);
    const auto reader = open_one(path, way);
    INFO(title(*reader));
    const aligned_memory memory(4 * page);
    reader->submit({0, 0, memory.at(0), page, 1, 0});
    CHECK(reader->wait().failure == "");
    fs::rename(write("replacement.bin", noise(4 * page, 7)), path);
    reader->submit({0, page, memory.at(page), 3 * page, 2, 0});
    CHECK(reader->wait().failure == "");
    CHECK(std::memcmp(memory.at(0), content.data(), content.size()) == 0);
  }
}

TEST_CASE("a folder and an absent file are sentences with their names") {
  for (const auto& way : all_ways()) {
    CHECK_THROWS_WITH(open_one(testing::scratch() / "absent.bin", way), Catch::Contains("absent.bin: No such file"));
    const auto reader = open_one(testing::scratch(), way);
    const aligned_memory memory(page);
    reader->submit({0, 0, memory.at(0), page, 1, 0});
    CHECK_THAT(reader->wait().failure, Catch::Contains("Is a directory") || Catch::Contains("Invalid argument"));
  }
}

TEST_CASE("what a system call returns decides how a read goes on") {
  const std::vector<fs::path> paths{write("pieces.bin", noise(100, 8))};
  const open_files buffered(paths, io_mode::buffered, false);
  std::byte memory[64];
  pending_read r({0, 10, memory, 60, 42, 50});
  CHECK_FALSE(r.take(-EINTR, buffered));
  CHECK_FALSE(r.take(-EAGAIN, buffered));
  CHECK_FALSE(r.take(20, buffered));
  CHECK(r.rest().offset == 30);
  CHECK(r.rest().bytes == 40);
  CHECK(r.rest().destination == memory + 20);
  CHECK(r.take(30, buffered)); // all that is required
  CHECK(r.completion().failure == "");
  CHECK(r.completion().bytes == 50);
  CHECK(r.completion().tag == 42);

  pending_read broken({0, 0, memory, 60, 1, 0});
  CHECK_FALSE(broken.take(10, buffered));
  CHECK(broken.take(-EIO, buffered));
  CHECK_THAT(broken.completion().failure,
             Catch::Contains("can't read 50 B at offset 10") && Catch::Contains("Input/output error"));

  const open_files direct(paths, io_mode::direct, false);
  if (direct.mode() != io_mode::direct) {
    testing::skipped("the scratch folder's file system has no O_DIRECT");
    return;
  }
  const std::size_t a = direct.alignment();
  pending_read odd({0, 0, memory, 4 * a, 1, 0});
  CHECK_FALSE(odd.take(static_cast<long>(a + 7), direct)); // goes on from an aligned place
  CHECK(odd.rest().offset == a);
  CHECK(odd.take(7, direct)); // no progress: the end
  CHECK_THAT(odd.completion().failure, Catch::Contains("truncated"));

  pending_read refused({0, 0, memory, 4 * a, 1, 0});
  CHECK_FALSE(refused.take(-EINVAL, direct)); // the file system's word against O_DIRECT
  CHECK(direct.mode() == io_mode::buffered);
  CHECK(direct.alignment() == a);
  CHECK(refused.take(-EINVAL, direct)); // not about O_DIRECT
  CHECK_THAT(refused.completion().failure, Catch::Contains("Invalid argument"));
}
