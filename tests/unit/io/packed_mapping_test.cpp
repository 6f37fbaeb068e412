// Mapped entries that are written to, cut short, and replaced by memory.
#include "memory/rounding.hpp"
#include "src/io/packed_mapping.hpp"

#include "tests/support/packed_entries.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <csetjmp>
#include <csignal>
#include <fcntl.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::testing;
namespace fs = std::filesystem;

namespace {

struct mapped_entry {
  explicit mapped_entry(const char* name) : folder(name) {
    build_whole(folder.path, key_of(1));
    file = packed_cache::open(folder.path, key_of(1), sections());
    REQUIRE(file);
    mapping = file->map();
    REQUIRE(mapping);
  }
  [[nodiscard]] fs::path path() const { return folder.path / key_of(1).text(); }
  [[nodiscard]] std::byte* section(std::size_t i) const { return mapping->data() + file->offset(i); }
  [[nodiscard]] bool is_sound(std::size_t i) const { return mapping->is_sound(i, 0, sections()[i].bytes); }
  void write(std::uint64_t offset, std::byte value) const {
    const int fd = ::open(path().c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(::pwrite(fd, &value, 1, static_cast<off_t>(offset)) == 1);
    ::close(fd);
  }

  packed_folder folder;
  std::optional<packed_file> file;
  std::shared_ptr<packed_mapping> mapping;
};

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): a signal's handler has nobody who hands it anything
std::sig_atomic_t volatile handed_on = 0;
sigjmp_buf back;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

void count_signal(int) {
  handed_on = handed_on + 1;
  siglongjmp(back, 1); // NOLINT: out of an instruction that can't go on
}

bool is_ours() {
  struct sigaction now {};
  ::sigaction(SIGBUS, nullptr, &now);
  return now.sa_handler != count_signal;
}

} // namespace

TEST_CASE("a mapped entry is compared with its checksums, and found lost when somebody writes into it") {
  const mapped_entry e("mapped-written");
  for (std::size_t i = 0; i < sections().size(); ++i)
    CHECK(e.is_sound(i));
  CHECK_FALSE(e.mapping->lost());
  CHECK(packed_cache::open(e.folder.path, key_of(1), sections())); // others may use it
  CHECK_FALSE(e.mapping->lost());
  const auto old = *(e.section(2) + 9000);
  e.write(e.file->offset(2) + 9000, ~old);
  CHECK(e.mapping->lost());
  CHECK_FALSE(e.is_sound(2));
  e.write(e.file->offset(2) + 9000, old);
  CHECK(e.mapping->lost()); // for good
  CHECK(e.file->map());
}

TEST_CASE("an entry that is cut short under its mapping costs the mapping, and no signal") {
  const mapped_entry e("mapped-cut");
  fs::resize_file(e.path(), e.file->offset(2));
  CHECK(*e.section(2) == std::byte{0}); // it would have been a signal
  CHECK(e.mapping->lost());
  CHECK_FALSE(e.is_sound(2));
  CHECK_FALSE(e.is_sound(0)); // all of it, also what is still there

  const mapped_entry longer("mapped-longer");
  fs::resize_file(longer.path(), longer.file->file_bytes() + 1);
  CHECK(longer.mapping->lost());
}

TEST_CASE("many threads may meet a mapping that is cut short") {
  for (int round = 0; round < 20; ++round) {
    const mapped_entry e("mapped-threads");
    std::atomic<bool> cut = false;
    std::vector<std::thread> threads;
    std::atomic<int> wrong = 0;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (bool last = false; !last;) {
          last = cut;
          // A reader that asks afterwards does not take zeros for the file's bytes.
          const bool same = std::ranges::equal(section_bytes(2), std::span(e.section(2), sections()[2].bytes));
          wrong += !same && !e.mapping->lost();
        }
      });
    fs::resize_file(e.path(), static_cast<std::uintmax_t>(round) * 4096);
    cut = true;
    for (auto& t : threads)
      t.join();
    CHECK(wrong == 0);
    CHECK(e.mapping->lost());
  }
}

TEST_CASE("a lost mapping's ranges become memory, once, and stay what was written there") {
  using claim = packed_mapping::claim;
  const mapped_entry e("mapped-claimed");
  e.mapping->lose();
  REQUIRE(e.mapping->lost());
  auto* const at = e.section(2);
  const auto bytes = round_up(sections()[2].bytes, 4096);
  CHECK(e.mapping->claim_range(at, bytes) == claim::mine);
  CHECK(e.mapping->claim_range(at, bytes) == claim::others);
  std::fill_n(at, bytes, std::byte{1});
  e.mapping->filled(at, false);
  CHECK(e.mapping->claim_range(at, bytes) == claim::mine);
  std::ranges::copy(section_bytes(2), at);
  e.mapping->filled(at, true);
  CHECK(e.mapping->claim_range(at, bytes) == claim::done);
  fs::resize_file(e.path(), 0);
  CHECK(*e.section(0) == std::byte{0}); // a page of the file, that is gone
  CHECK(e.is_sound(2));
}

TEST_CASE("a signal of others' memory goes to the handler that was there, which is back when the last mapping goes") {
  struct sigaction theirs {};
  struct sigaction before {};
  theirs.sa_handler = &count_signal;
  theirs.sa_flags = SA_NODEFER;
  REQUIRE(::sigaction(SIGBUS, &theirs, &before) == 0);
  handed_on = 0;
  {
    const mapped_entry e("mapped-signals");
    const mapped_entry another("mapped-signals-2");
    CHECK(is_ours());
    const auto path = e.folder.path / "theirs";
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(::ftruncate(fd, 4096) == 0);
    auto* const memory = static_cast<volatile char*>(::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0));
    REQUIRE(::ftruncate(fd, 0) == 0);
    if (sigsetjmp(back, 1) == 0) // NOLINT: as above
      (void)memory[0];
    CHECK(handed_on == 1);
    if (sigsetjmp(back, 1) == 0) // NOLINT: as above
      (void)::raise(SIGBUS);
    CHECK(handed_on == 2);
    CHECK_FALSE(e.mapping->lost());
    ::munmap(const_cast<char*>(memory), 4096); // NOLINT(cppcoreguidelines-pro-type-const-cast): it is only given back
    ::close(fd);
  }
  CHECK_FALSE(is_ours());
  REQUIRE(::sigaction(SIGBUS, &before, nullptr) == 0);
}
