// The file of KV pages: damage of every kind, files of others, a budget that several share, and disks that fail.
#include "src/io/kv_page_file.hpp"

#include "tests/support/kv_chains.hpp"
#include "tests/support/little_disk.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::testing;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t some = 6; ///< pages of the chain that these tests keep

fs::path file_in(const kv_folder& folder, std::uint64_t model = 7) {
  return folder.path / (packed_key{1, model}.text() + ".kv");
}

/// Makes a file with some pages; returns their chain.
chain keep_some(const kv_folder& folder, std::uint64_t model = 7) {
  kept_pages k(0, 40, folder.path, model);
  chain c(k.store->root(), some, 100);
  REQUIRE(save(*k.store, c) == some);
  return c;
}

std::vector<char> bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const fs::path& path, std::span<const char> bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::size_t open_descriptors() {
  const fs::directory_iterator it("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

} // namespace

TEST_CASE("the folder and the file are the owner's alone") {
  const kv_folder folder("modes/deep/er");
  const auto before = open_descriptors();
  (void)keep_some(folder);
  CHECK(open_descriptors() == before);
  struct stat facts {};
  REQUIRE(::stat(folder.path.c_str(), &facts) == 0);
  CHECK((facts.st_mode & 0777) == 0700);
  REQUIRE(::stat(file_in(folder).c_str(), &facts) == 0);
  CHECK((facts.st_mode & 0777) == 0600);
  CHECK(fs::file_size(file_in(folder)) == file_of(some));
}

TEST_CASE("a file keeps its pages and its seed from one run to the next") {
  const kv_folder folder("kept");
  const auto c = keep_some(folder);
  kept_pages k(0, 40, folder.path);
  CHECK(k.store->root() == c.root);
  CHECK(stored(*k.store, c) == some);
  CHECK(restore(*k.store, c) == some);
  CHECK(k.said.all.empty());
}

TEST_CASE("a file that lies in the page cache is read from there, and any other directly where the disk allows it") {
  const kv_folder folder("cached");
  (void)keep_some(folder);
  const auto mode = [&] {
    const auto file = kv_page_file::open({small_page, std::uint64_t{1} << 30, folder.path, {1, 7}, "a model", {}});
    REQUIRE(file);
    return file->reader().mode();
  };
  CHECK(mode() == io_mode::buffered); // written a moment ago
  const int fd = ::open(file_in(folder).c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  CHECK(::fsync(fd) == 0);
  CHECK(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
  ::close(fd);
  const int direct = ::open(file_in(folder).c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  CHECK(mode() == (direct >= 0 ? io_mode::direct : io_mode::buffered));
  if (direct >= 0)
    ::close(direct);
}

TEST_CASE("a byte that changes costs at most the pages of its slot and those behind, and is never given out") {
  const kv_folder folder("flipped");
  const auto c = keep_some(folder);
  const auto whole = bytes_of(file_in(folder));
  std::mt19937 random(3);
  std::size_t lost_all = 0, lost_some = 0;
  const auto flip = [&](std::size_t at) {
    auto changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ (1 << random() % 8));
    write_bytes(file_in(folder), changed);
    kept_pages k(at % 2 == 0 ? 0 : 9, 40, folder.path);
    const auto n = restore(*k.store, c);
    if (at < sizeof(kv_file_header)) {
      lost_all += n == 0 && k.said.with("are dropped") == 1 && fs::file_size(file_in(folder)) == file_of(0);
      return;
    }
    const std::size_t slot = at < kv_file_header_bytes ? some : (at - kv_file_header_bytes) / small_slot;
    const bool padding =
        at < kv_file_header_bytes || (at - kv_file_header_bytes) % small_slot >= sizeof(kv_slot_header) + small_page;
    const bool header = (at - kv_file_header_bytes) % small_slot < sizeof(kv_slot_header);
    INFO("byte " << at);
    REQUIRE(n == (padding ? some : slot));
    if (padding)
      return;
    ++lost_some;
    REQUIRE(k.said.with("is not what was written") == (header ? 0 : 1));
    REQUIRE(k.store->usage().damaged == (header ? 0 : 1));
    REQUIRE(stored(*k.store, c) == slot); // it is no longer said to be there
    REQUIRE(save_page(*k.store, c, slot));
    k.store->flush();
    REQUIRE(restore(*k.store, c) == some); // and is whole again
    k.store.reset();
    kept_pages again(0, 40, folder.path);
    REQUIRE(restore(*again.store, c) == some);
    REQUIRE(again.said.all.empty());
  };
  for (std::size_t at = 0; at < sizeof(kv_file_header); ++at)
    flip(at);
  CHECK(lost_all == sizeof(kv_file_header));
  for (std::size_t at = 0; at < sizeof(kv_slot_header); at += 5) // each field of a slot's header
    flip(kv_file_header_bytes + 2 * small_slot + at);
  for (int i = 0; i < 60; ++i)
    flip(sizeof(kv_file_header) + random() % (whole.size() - sizeof(kv_file_header)));
  CHECK(lost_some > 50);
}

TEST_CASE("many damaged pages are one notice") {
  const kv_folder folder("many");
  const auto c = keep_some(folder);
  auto changed = bytes_of(file_in(folder));
  for (std::size_t slot = 0; slot < some; ++slot)
    changed[kv_slot_offset(slot, small_slot) + 1000] ^= 1;
  write_bytes(file_in(folder), changed);
  kept_pages k(0, 40, folder.path);
  for (std::size_t page = 0; page < some; ++page)
    CHECK(k.store->restore(c.wanted(page), [](std::size_t, std::span<const std::byte>) {}) == 0);
  CHECK(k.said.all.size() == 1);
  CHECK(k.store->usage().damaged == some);
  CHECK(k.store->usage().disk_pages == 0);
  k.store.reset();
  kept_pages again(0, 40, folder.path); // what was dropped stays dropped
  CHECK(again.store->usage().disk_pages == 0);
}

TEST_CASE("a page in another's slot, and one from another file, are not given out") {
  const kv_folder folder("moved");
  const auto c = keep_some(folder);
  const auto other = keep_some(folder, 8);
  auto mine = bytes_of(file_in(folder));
  const auto foreign = bytes_of(file_in(folder, 8));
  const auto at = kv_slot_offset(0, small_slot);
  std::memcpy(mine.data() + at + sizeof(kv_slot_header),
              mine.data() + kv_slot_offset(3, small_slot) + sizeof(kv_slot_header),
              small_page); // a right page under the wrong header
  std::memcpy(mine.data() + kv_slot_offset(4, small_slot), foreign.data() + at, small_slot);
  std::memcpy(mine.data() + kv_slot_offset(5, small_slot), mine.data() + kv_slot_offset(1, small_slot),
              small_slot); // twice
  write_bytes(file_in(folder), mine);
  kept_pages k(0, 40, folder.path);
  CHECK(k.store->usage().disk_pages == 4);
  CHECK(restore(*k.store, other) == 0);
  CHECK(restore(*k.store, c) == 0);
  CHECK(save_page(*k.store, c, 0));
  CHECK(restore(*k.store, c) == 4);
}

TEST_CASE("a file that ends early keeps the pages that are whole") {
  const kv_folder folder("cut");
  const auto c = keep_some(folder);
  const auto whole = bytes_of(file_in(folder));
  std::mt19937 random(5);
  for (int i = 0; i < 60; ++i) {
    const auto n = i < 4 ? kv_file_header_bytes - 2 + static_cast<std::size_t>(i) : random() % whole.size();
    INFO(n << " bytes");
    write_bytes(file_in(folder), std::span(whole).first(n));
    kept_pages k(0, 40, folder.path);
    const auto pages = n < kv_file_header_bytes ? 0 : (n - kv_file_header_bytes) / small_slot;
    REQUIRE(restore(*k.store, c) == pages);
    REQUIRE(k.said.with("it ends within its header") == (n > 0 && n < kv_file_header_bytes));
    const chain next(k.store->root(), some, 100);
    REQUIRE(save(*k.store, next) == some);
    REQUIRE(restore(*k.store, next) == some);
  }
  auto longer = whole;
  longer.resize(whole.size() + 100, 'x');
  write_bytes(file_in(folder), longer);
  {
    kept_pages k(0, 40, folder.path);
    CHECK(restore(*k.store, c) == some);
  }
  CHECK(fs::file_size(file_in(folder)) == file_of(some));
}

TEST_CASE("a file that is shortened while it is open gives nothing wrong, and goes on") {
  for (const std::size_t host : {0, 9}) {
    const kv_folder folder("shortened");
    const auto c = keep_some(folder);
    kept_pages k(host, 40, folder.path);
    fs::resize_file(file_in(folder), file_of(2) + 300);
    CHECK(restore(*k.store, c) == 2);
    CHECK(k.said.with("the file ended") == 1);
    CHECK(k.said.all.size() == 1);
    for (std::size_t page = 2; page < some; ++page)
      CHECK(restore(*k.store, c) < some);
    for (std::size_t page = 2; page < some; ++page)
      (void)k.store->restore(c.wanted(page), [](std::size_t, std::span<const std::byte>) {});
    CHECK(save(*k.store, c) == some);
    k.store->flush();
    CHECK(restore(*k.store, c) == some);
  }
}

TEST_CASE("a file of another version, page size or model is started anew with a notice") {
  const kv_folder folder("foreign");
  const auto whole = [&] {
    (void)keep_some(folder);
    return bytes_of(file_in(folder));
  }();
  const auto started_anew = [&](const char* why) {
    kept_pages k(0, 40, folder.path);
    INFO(why);
    CHECK(k.said.all.size() == 1);
    CHECK(k.said.with(why) == 1);
    CHECK(k.store->usage().disk_pages == 0);
    CHECK(save(*k.store, chain(k.store->root(), 3, 100)) == 3);
  };
  auto h = make_kv_file_header({1, 7}, small_page, 9);
  h.version = 2; // which may have its checksum elsewhere
  auto changed = whole;
  std::memcpy(changed.data(), &h, sizeof h);
  write_bytes(file_in(folder), changed);
  started_anew("it is of version 2");
  const std::vector<std::pair<kv_file_header, const char*>> others{
      {make_kv_file_header({1, 8}, small_page, 9), "it is another model's"},
      {make_kv_file_header({1, 7}, small_page + 1, 9), "its pages have 5001 bytes, not 5000"},
  };
  for (const auto& [header, why] : others) {
    std::memcpy(changed.data(), &header, sizeof header);
    write_bytes(file_in(folder), changed);
    started_anew(why);
  }
  write_bytes(file_in(folder), std::string(10000, 'x'));
  started_anew("it is no file of KV pages");
}

TEST_CASE("a second store on a file has no disk tier, and disturbs nothing") {
  const kv_folder folder("twice");
  const auto c = keep_some(folder);
  kept_pages first(0, 40, folder.path);
  {
    kept_pages second(4, 40, folder.path);
    CHECK(second.said.with("another process has the file") == 1);
    CHECK(second.store->root() != c.root);
    const chain own(second.store->root(), 3, 100);
    CHECK(save(*second.store, own) == 3); // in host memory
    CHECK(restore(*second.store, own) == 3);
  }
  CHECK(restore(*first.store, c) == some);
  first.store.reset();
  kept_pages third(0, 40, folder.path);
  CHECK(restore(*third.store, c) == some);
}

TEST_CASE("models share the folder's budget: the file that was not used for longest goes") {
  const kv_folder folder("shared");
  for (const std::uint64_t model : {1, 2, 3}) {
    (void)keep_some(folder, model);
    const timespec used[2]{{static_cast<time_t>(1000 * model), 0}, {static_cast<time_t>(1000 * model), 0}};
    REQUIRE(::utimensat(AT_FDCWD, file_in(folder, model).c_str(), used, 0) == 0);
  }
  write_bytes(folder.path / "notes.txt", std::string(100000, 'x'));
  const auto kept = [&](std::uint64_t model) { return fs::exists(file_in(folder, model)); };
  // Room for three files of six pages and a header with two pages.
  auto o = kept_pages::options(0, 0, folder.path, 4);
  o.disk_bytes = 3 * file_of(some) + file_of(2);
  kept_pages k(o);
  const chain c(k.store->root(), 12, 100);
  CHECK(save_page(*k.store, c, 0));
  CHECK(save_page(*k.store, c, 1));
  CHECK(kept(1));
  CHECK(save_page(*k.store, c, 2));
  CHECK_FALSE(kept(1));
  CHECK(kept(2));
  const int held = ::open(file_in(folder, 2).c_str(), O_RDWR | O_CLOEXEC); // as another process does
  REQUIRE(::flock(held, LOCK_EX) == 0);
  for (std::size_t page = 3; page < c.size(); ++page)
    CHECK(save_page(*k.store, c, page));
  CHECK(kept(2));
  CHECK_FALSE(kept(3));
  CHECK(fs::exists(folder.path / "notes.txt"));
  CHECK(folder.bytes() - 100000 <= o.disk_bytes);
  CHECK(restore(*k.store, c) == c.size());
  ::close(held);
  CHECK(k.said.all.empty());
}

TEST_CASE("what only looks like a file of KV pages counts, and is left alone") {
  const kv_folder folder("looks");
  fs::create_directories(folder.path / "folder.kv");
  write_bytes(folder.path / "mine.kv", std::string(file_of(3), 'x'));
  auto o = kept_pages::options(0, 0, folder.path);
  o.disk_bytes = file_of(3) + file_of(2);
  {
    kept_pages k(o);
    const chain c(k.store->root(), 9, 100);
    CHECK(save(*k.store, c) == 2);
    CHECK(restore(*k.store, c) == 2);
  }
  CHECK(fs::exists(folder.path / "folder.kv"));
  CHECK(fs::file_size(folder.path / "mine.kv") == file_of(3));
  o.disk_bytes = file_of(3) + 100;
  kept_pages none(o);
  CHECK(none.said.with("files in use have") == 1);
  CHECK_FALSE(fs::exists(file_in(folder))); // with it, the folder would be above its budget
  CHECK(save(*none.store, chain(none.store->root(), 1, 100)) == 0);
}

TEST_CASE("a file above the budget is shortened, and a budget below a page is a notice") {
  const kv_folder folder("smaller");
  const auto c = keep_some(folder);
  {
    kept_pages k(0, 4, folder.path);
    CHECK(k.said.with("is shortened to 4 of its 6 pages") == 1);
    CHECK(fs::file_size(file_in(folder)) == file_of(4));
    CHECK(restore(*k.store, c) == 4);
  }
  auto o = kept_pages::options(0, 0, folder.path);
  o.disk_bytes = file_of(1) - 1;
  kept_pages k(o);
  CHECK(k.said.with("a file with one page has 12.0 KiB") == 1);
  CHECK(k.store->usage().disk_bytes == 0);
}

TEST_CASE("a folder that can't be made, and a path that is no file, are notices") {
  const kv_folder folder("unmade");
  fs::create_directories(folder.path);
  write_bytes(folder.path / "file", std::string("x"));
  const auto before = open_descriptors();
  {
    kept_pages k(2, 40, folder.path / "file" / "folder");
    CHECK(k.said.with("Not a directory") == 1);
    const chain c(k.store->root(), 2, 100);
    CHECK(save(*k.store, c) == 2);
    CHECK(restore(*k.store, c) == 2);
  }
  fs::create_directories(file_in(folder));
  kept_pages k(2, 40, folder.path);
  CHECK(k.said.all.size() == 1);
  fs::create_directories(folder.path / "other");
  fs::create_symlink(folder.path / "file", folder.path / "other" / file_in(folder).filename());
  kept_pages linked(2, 40, folder.path / "other");
  CHECK(linked.said.all.size() == 1);
  CHECK(bytes_of(folder.path / "file").size() == 1);
  REQUIRE(::mkfifo(file_in(folder, 9).c_str(), 0600) == 0);
  kept_pages pipe(2, 40, folder.path, 9);
  CHECK(pipe.said.all.size() == 1);
  CHECK(open_descriptors() == before);
}

TEST_CASE("a file that can only be read still gives its pages") {
  const kv_folder folder("read-only");
  const auto c = keep_some(folder);
  const bool root = ::geteuid() == 0;
  constexpr uid_t nobody = 65534;
  if (root)
    for (const auto& path : {folder.path, file_in(folder)})
      REQUIRE(::chown(path.c_str(), nobody, nobody) == 0);
  fs::permissions(file_in(folder), fs::perms::owner_read);
  fs::permissions(folder.path, fs::perms::owner_read | fs::perms::owner_exec);
  if (root)
    REQUIRE(::seteuid(nobody) == 0);
  {
    kept_pages k(0, 40, folder.path);
    INFO(k.said.text());
    CHECK(k.said.with("none are added") == 1);
    CHECK(restore(*k.store, c) == some);
    CHECK(save(*k.store, c) == some); // they are there
    CHECK(save(*k.store, chain(c.root, 2, 900)) == 0);
    k.store->flush();
    CHECK(k.said.all.size() == 1);
    kept_pages other(2, 40, folder.path, 8);
    CHECK(other.said.with("Permission denied") == 1);
    CHECK(save(*other.store, chain(other.store->root(), 2, 900)) == 2);
  }
  if (root)
    REQUIRE(::seteuid(0) == 0);
  fs::permissions(folder.path, fs::perms::owner_all);
  CHECK(fs::file_size(file_in(folder)) == file_of(some));
}

TEST_CASE("a disk that is full is one notice, and the slots that there are go on being used") {
  for (const std::size_t host : {0, 4}) {
    const kv_folder folder("full");
    const little_disk limit(file_of(5) + 1000);
    kept_pages k(host, 40, folder.path);
    std::vector<chain> chains;
    for (token_id i = 0; i < 10; ++i) {
      chains.emplace_back(k.store->root(), 3, 1000 * i);
      CHECK(save(*k.store, chains.back()) == 3);
      k.store->flush();
      CHECK(restore(*k.store, chains.back()) == 3);
      CHECK(folder.bytes() <= file_of(5));
    }
    CHECK(k.said.all.size() == 1);
    CHECK(k.said.with("does not grow any more: File too large") == 1);
    CHECK(k.store->usage().disk_pages == 5);
    k.store.reset();
    kept_pages again(0, 40, folder.path);
    CHECK(restore(*again.store, chains.back()) == 3);
    CHECK(again.said.all.empty());
  }
}

TEST_CASE("a disk that fails again and again is written to no more, and what can be read is read") {
  const kv_folder folder("failing");
  const auto c = keep_some(folder);
  kept_pages k(0, 8, folder.path);
  const chain other(k.store->root(), 1, 900);
  {
    const little_disk limit(kv_file_header_bytes); // writes behind it fail
    for (int i = 0; i < 8; ++i)
      CHECK_FALSE(save_page(*k.store, other, 0));
  }
  CHECK(k.said.all.size() == 2);
  CHECK(k.said.with("does not grow any more") == 1);
  CHECK(k.said.with("no more KV pages") == 1);
  CHECK_FALSE(save_page(*k.store, other, 0));
  const auto n = stored(*k.store, c);
  CHECK(n >= some - 4);
  CHECK(restore(*k.store, c) == n);
  CHECK(k.store->usage().damaged == 0);
}

TEST_CASE("a file that can't even be begun is a notice, and leaves nothing") {
  const kv_folder folder("begun");
  const little_disk limit(100);
  kept_pages k(0, 40, folder.path);
  CHECK(k.said.with("File too large") == 1);
  CHECK(folder.bytes() == 0);
  CHECK_FALSE(fs::exists(file_in(folder)));
}

TEST_CASE("uses of pages are written beside them, but not over damage") {
  const kv_folder folder("uses");
  std::vector<std::string> said;
  kv_page_file::options o{small_page, file_of(4), folder.path, {1, 7}, "m", [&](auto s) { said.emplace_back(s); }};
  const page_key before{3, 4};
  const std::vector<token_id> tokens(kv_page_tokens, 5);
  watched_memory memory;
  const auto image = memory.maker()(small_slot);
  {
    const auto file = kv_page_file::open(o);
    REQUIRE(file);
    CHECK(file->take_pages().empty());
    const auto grown = file->grow();
    REQUIRE(grown);
    CHECK(grown->count == 4);
    CHECK_FALSE(file->grow());
    for (std::uint64_t slot = 0; slot < 3; ++slot) {
      kv_page_file::page_write w{slot, make_kv_slot_header(before, {1, slot}, tokens), image.get()};
      file->start(w);
      CHECK(file->finish(w));
    }
    file->set_used(0, {1, 0}, 10);
    file->set_used(1, {9, 9}, 11); // another page's slot
    file->erase(2);
    file->shrink(3);
  }
  CHECK(fs::file_size(file_in(folder)) == file_of(3));
  auto bytes = bytes_of(file_in(folder));
  bytes[kv_slot_offset(1, small_slot)] ^= 1;
  write_bytes(file_in(folder), bytes);
  const auto file = kv_page_file::open(o);
  REQUIRE(file);
  file->set_used(1, {1, 1}, 12);
  const auto pages = file->take_pages();
  REQUIRE(pages.size() == 1);
  CHECK(pages[0].used == 10);
  CHECK(pages[0].key == page_key{1, 0});
  CHECK(bytes_of(file_in(folder)) == bytes);
  CHECK(said.empty());
  CHECK_FALSE(kv_page_file::open(o)); // it is locked
  CHECK(said.size() == 1);
}
