// Pages of KV that are written to a file several at a time, and disks that fail in the middle of them.
#include "src/io/kv_page_file.hpp"
#include "src/io/open_files.hpp"

#include "tests/support/kv_chains.hpp"
#include "tests/support/little_disk.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::testing;
namespace fs = std::filesystem;

namespace {

constexpr page_key first_key{3, 4};
const std::vector<token_id> same_tokens(kv_page_tokens, 5);

fs::path path_in(const kv_folder& folder) {
  return folder.path / (packed_key{1, 7}.text() + ".kv");
}

/// Writes what the page cache has of a file to the disk, and forgets it there.
void forget_cached(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(::fsync(fd) == 0);
  CHECK(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
  ::close(fd);
}

/// A file with slots, and images for pages.
struct open_pages {
  notices said;
  watched_memory memory;
  std::size_t page_bytes, slot_bytes;
  std::unique_ptr<kv_page_file> file;
  std::vector<std::shared_ptr<std::byte>> images;

  open_pages(const kv_folder& folder, std::uint64_t slots, io_method method, std::size_t bytes = small_page)
      : page_bytes(bytes), slot_bytes(kv_slot_bytes(bytes)),
        file(kv_page_file::open(
            {bytes, kv_slot_offset(slots, slot_bytes), folder.path, {1, 7}, "m", said.taker(), method})) {
    REQUIRE(file);
  }
  /// A page with this number, for a slot.
  kv_page_file::page_write page(std::uint64_t number, std::uint64_t slot) {
    const page_key key{1, number};
    auto* const image = images.emplace_back(memory.maker()(slot_bytes)).get();
    std::memset(image, 0x77, slot_bytes);
    fill_page(key, {image + sizeof(kv_slot_header), page_bytes});
    return {slot, make_kv_slot_header(first_key, key, same_tokens), image};
  }
  /// Begins to write all, and waits for them; which are written.
  std::vector<bool> write(std::vector<kv_page_file::page_write> pages) const {
    for (auto& p : pages)
      file->start(p);
    std::vector<bool> out;
    for (auto& p : pages)
      out.push_back(file->finish(p));
    return out;
  }
  /// Whether a slot has the page with this number.
  bool has(std::uint64_t number, std::uint64_t slot) {
    const auto image = memory.maker()(slot_bytes);
    file->reader().submit(file->request(slot, image.get(), 0));
    const page_key key{1, number};
    return file->reader().wait().failure.empty() && file->is_intact(image.get(), first_key, key, same_tokens) &&
           is_filled(key, {image.get() + sizeof(kv_slot_header), page_bytes});
  }
};

/// The numbers of the pages that a file has, by slot.
std::vector<std::pair<std::uint64_t, std::uint64_t>> kept(kv_page_file& file) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
  for (const auto& p : file.take_pages())
    out.emplace_back(p.slot, p.key.low);
  return out;
}

std::vector<io_method> methods() {
  return uring_works() ? std::vector{io_method::pread, io_method::uring} : std::vector{io_method::pread};
}

std::string name(io_method method) {
  return method == io_method::uring ? "io_uring" : "pwrite";
}

} // namespace

TEST_CASE("pages that are written at the same time are whole, each in its slot, by every method") {
  // Less than a block, a block with the header, a few blocks, and many.
  for (const std::size_t bytes : {1000, 3840, 3841, 5000, 300000})
    for (const auto method : methods())
      for (const bool cold : {false, true}) {
        const kv_folder folder("several");
        constexpr std::uint64_t slots = 11;
        if (cold) {
          {
            open_pages p(folder, slots, method, bytes);
            REQUIRE(p.file->grow());
            CHECK(p.write({p.page(100, 0)}) == std::vector{true});
          }
          forget_cached(path_in(folder));
        }
        open_pages p(folder, slots, method, bytes);
        INFO(name(method) << ", read " << to_string(p.file->reader().mode()) << ", " << bytes << " bytes");
        while (p.file->slots() < slots)
          REQUIRE(p.file->grow());
        std::vector<std::uint64_t> order(slots);
        for (std::uint64_t i = 0; i < slots; ++i)
          order[i] = i;
        std::shuffle(order.begin(), order.end(), std::mt19937(6));
        std::vector<kv_page_file::page_write> pages;
        for (std::uint64_t i = 0; i < slots; ++i)
          pages.push_back(p.page(i, order[i]));
        CHECK(p.write(pages) == std::vector<bool>(slots, true));
        for (std::uint64_t i = 0; i < slots; ++i)
          CHECK(p.has(i, order[i]));
        CHECK(p.said.all.empty());
        p.file.reset();
        open_pages again(folder, slots, method, bytes);
        CHECK(kept(*again.file).size() == slots);
      }
}

TEST_CASE("one of several writes that fails leaves its slot free, and the others are written") {
  for (const auto method : methods())
    for (const std::size_t into : {0, 100, 4096, 5000, 8191}) { // bytes of the slot that can be written
      const kv_folder folder("middle");
      INFO(name(method) << ", after " << into << " bytes");
      open_pages p(folder, 9, method);
      REQUIRE(p.file->grow());
      CHECK(p.write({p.page(50, 8)}) == std::vector{true}); // a page that was there before
      {
        const little_disk limit(file_of(8) + into);
        CHECK(p.write({p.page(0, 0), p.page(1, 1), p.page(2, 8), p.page(3, 3), p.page(4, 4), p.page(5, 5)}) ==
              std::vector{true, true, false, true, true, true});
      }
      CHECK(p.said.all.size() == 1);
      CHECK(p.said.with("does not grow any more: File too large") == 1);
      for (const std::uint64_t slot : {0, 1, 3, 4, 5})
        CHECK(p.has(slot, slot));
      CHECK_FALSE(p.has(2, 8));
      if (into >= sizeof(kv_slot_header))
        CHECK_FALSE(p.has(50, 8));
      CHECK(p.file->is_writable());
      CHECK_FALSE(p.file->grow());
      CHECK(p.write({p.page(2, 8)}) == std::vector{true}); // the slot can be used again
      CHECK(p.has(2, 8));
      CHECK(p.said.all.size() == 1);
    }
}

TEST_CASE("a process that is killed while it writes a page leaves none in its slot") {
  const kv_folder folder("killed");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 1;
    try { // with pwrite, whose thread gets the signal
      open_pages p(folder, 9, io_method::pread);
      const rlimit no_core{0, 0}, little{file_of(1) + 5000, RLIM_INFINITY};
      std::signal(SIGXFSZ, SIG_DFL);
      if (p.file->grow() && p.write({p.page(0, 0)}) == std::vector{true} && ::setrlimit(RLIMIT_CORE, &no_core) == 0 &&
          ::setrlimit(RLIMIT_FSIZE, &little) == 0) {
        (void)p.write({p.page(1, 1)});
        code = 2;
      }
    } catch (...) { // the other tests are the parent's
    }
    ::_exit(code);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGXFSZ);
  open_pages p(folder, 9, io_method::automatic);
  CHECK(kept(*p.file) == std::vector{std::pair<std::uint64_t, std::uint64_t>{0, 0}});
  CHECK(p.has(0, 0));
}

TEST_CASE("several writes that fail at once are counted, and end all writing with one notice") {
  for (const auto method : methods()) {
    const kv_folder folder("at once");
    INFO(name(method));
    open_pages p(folder, 9, method);
    REQUIRE(p.file->grow());
    {
      const little_disk limit(file_of(4) + 100);
      CHECK(p.write({p.page(4, 4), p.page(5, 5), p.page(0, 0)}) == std::vector{false, false, true});
      CHECK(p.file->is_writable());
      CHECK(p.write({p.page(4, 4), p.page(5, 5), p.page(6, 6), p.page(7, 7)}) == std::vector(4, false));
    }
    CHECK_FALSE(p.file->is_writable());
    CHECK(p.said.all.size() == 2);
    CHECK(p.said.with("no more KV pages of m are written") == 1);
    CHECK(p.write({p.page(1, 1), p.page(2, 2)}) == std::vector{false, false});
    CHECK(p.said.all.size() == 2);
    CHECK(p.has(0, 0));
    p.file.reset();
    open_pages again(folder, 9, method);
    CHECK(kept(*again.file) == std::vector{std::pair<std::uint64_t, std::uint64_t>{0, 0}});
  }
}

TEST_CASE("pages behind one that could not be written are not kept without it") {
  const kv_folder folder("behind");
  kept_pages k(0, 6, folder.path);
  const chain old(k.store->root(), 3, 100), kept(k.store->root(), 3, 500), next(k.store->root(), 3, 900);
  CHECK(save(*k.store, old) == 3); // in the slots 0, 1, 2, which the next pages get from the last to the first
  CHECK(save(*k.store, kept) == 3);
  {
    const little_disk limit(file_of(2) + 100);
    CHECK(save(*k.store, next) == 0);
  }
  CHECK(k.said.all.size() == 1);
  CHECK(stored(*k.store, next) == 0);
  CHECK(restore(*k.store, kept) == 3);
  CHECK(k.store->usage().disk_pages == 3);
  CHECK(k.store->usage().saved == 6);
  k.store->trim();
  CHECK(k.memory.bytes == 0); // the staging came back
  k.store.reset();
  k.store.emplace([&] {
    auto o = kept_pages::options(0, 6, folder.path);
    o.notice = k.said.taker();
    o.make_buffer = k.memory.maker();
    return o;
  }());
  CHECK(k.store->usage().disk_pages == 3); // nor found in the file
  {
    const little_disk limit(file_of(2) + 100);
    CHECK(save(*k.store, next) == 2); // now from the first to the last
    CHECK(stored(*k.store, next) == 2);
  }
  CHECK(save(*k.store, next) == 3); // the last one in the slot that failed
  CHECK(restore(*k.store, next) == 3);
  CHECK(restore(*k.store, kept) == 3);
  CHECK(k.memory.peak <= 5 * small_slot);
  CHECK(folder.bytes() <= file_of(6));
}

TEST_CASE("a page that can't be copied ends a save, and those before it are stored") {
  const kv_folder folder("copied");
  for (const bool disk : {false, true}) {
    kept_pages k(disk ? 0 : 9, disk ? 9 : 0, folder.path);
    const chain c(k.store->root(), 6, 100);
    CHECK_THROWS_AS(k.store->save(c.wanted(),
                                  [&](std::size_t page, std::span<std::byte> to) {
                                    if (page == 4)
                                      throw std::runtime_error("no");
                                    fill_page(c.keys[page], to);
                                  }),
                    std::runtime_error);
    CHECK(stored(*k.store, c) == 4);
    CHECK(k.store->usage().saved == 4);
    CHECK(restore(*k.store, c) == 4);
    CHECK(save(*k.store, c) == 6);
    CHECK(restore(*k.store, c) == 6);
  }
}

TEST_CASE("pages that would leave host memory next are written together with the one that has to") {
  const kv_folder folder("together");
  kept_pages k(8, 50, folder.path); // six slots, and two of staging
  const chain a(k.store->root(), 6, 100), b(k.store->root(), 6, 900);
  CHECK(save(*k.store, a) == 6);
  CHECK(k.store->usage().disk_pages == 0);
  for (std::size_t page = 0; page < b.size(); ++page) {
    CHECK(save_page(*k.store, b, page));
    CHECK(k.store->usage().disk_pages == (page < kv_page_file::write_depth ? kv_page_file::write_depth : 6));
    CHECK(k.store->usage().host_pages == 6);
  }
  CHECK(restore(*k.store, a) == 6);
  CHECK(restore(*k.store, b) == 6);
  CHECK(k.said.all.empty());
}

TEST_CASE("a flush that is interrupted has written what it began") {
  const kv_folder folder("interrupted");
  kept_pages k(20, 40, folder.path);
  const chain c(k.store->root(), 12, 100);
  CHECK(save(*k.store, c) == 12);
  for (const std::size_t pages : {3, 7, 5}) {
    const auto before = k.store->usage().disk_pages;
    std::size_t asked = 0;
    k.store->flush([&] { return ++asked > pages; });
    CHECK(k.store->usage().disk_pages == std::min<std::size_t>(before + pages, 12));
  }
  k.store.reset();
  kept_pages again(0, 40, folder.path);
  CHECK(restore(*again.store, c) == 12);
}
