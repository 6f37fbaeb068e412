// Building entries: many threads, two builders, killed ones, full disks and folders that refuse.
#include "tests/support/packed_entries.hpp"

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace tropilla;
using namespace tropilla::testing;
namespace fs = std::filesystem;

namespace {

using kind = packed_refusal::kind;

std::variant<packed_builder, packed_refusal> build(const fs::path& folder, std::uint64_t number) {
  return packed_cache::build(folder, key_of(number), "a model", sections());
}

std::optional<packed_file> open(const fs::path& folder, std::uint64_t number) {
  return packed_cache::open(folder, key_of(number), sections());
}

std::size_t files_in(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

bool is_whole(const packed_file& file) {
  for (std::size_t i = 0; i < file.sections(); ++i)
    if (!file.verify(i).empty())
      return false;
  return true;
}

/// What `body` returns in a child process, which ends right after it.
template <class Body>
int in_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0)
    ::_exit(body());
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

} // namespace

TEST_CASE("many threads write parts in any order") {
  const packed_folder folder("threads");
  auto result = build(folder.path, 1);
  auto& builder = std::get<packed_builder>(result);
  struct part {
    std::size_t section, begin, end;
  };
  std::vector<part> parts;
  for (std::size_t s = 0; s < sections().size(); ++s)
    for (std::size_t at = 0; at < sections()[s].bytes; at += 997)
      parts.push_back({s, at, std::min<std::size_t>(at + 997, sections()[s].bytes)});
  std::shuffle(parts.begin(), parts.end(), std::minstd_rand(1));
  {
    std::atomic<std::size_t> next = 0;
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&] {
        for (std::size_t i = next++; i < parts.size(); i = next++) {
          const auto bytes = section_bytes(parts[i].section);
          builder.write(parts[i].section, parts[i].begin,
                        std::span(bytes).subspan(parts[i].begin, parts[i].end - parts[i].begin));
        }
      });
  }
  CHECK_FALSE(open(folder.path, 1)); // not before commit
  CHECK(builder.commit(true) == "");
  const auto file = open(folder.path, 1);
  REQUIRE(file);
  CHECK(is_whole(*file));
  const auto mapping = file->map();
  CHECK(std::memcmp(mapping->bytes().data() + file->offset(2), section_bytes(2).data(), section_bytes(2).size()) == 0);
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("a section that was not written to its end is not committed") {
  const packed_folder folder("incomplete");
  auto result = build(folder.path, 1);
  auto& builder = std::get<packed_builder>(result);
  CHECK(builder.write(0, 0, section_bytes(0)));
  CHECK_THAT(builder.commit(), Catch::Contains("layer 0") && Catch::Contains("incomplete: 0 of 36865 bytes"));
  CHECK(builder.failed());
  CHECK_FALSE(builder.write(2, 0, section_bytes(2)));
  CHECK(files_in(folder.path) == 0);
}

TEST_CASE("a builder that is dropped leaves nothing") {
  const packed_folder folder("dropped");
  {
    auto result = build(folder.path, 1);
    CHECK(write_all(std::get<packed_builder>(result)));
    CHECK(files_in(folder.path) == 1);
  }
  CHECK(files_in(folder.path) == 0);
}

TEST_CASE("of two builders one is told that the other is at work, then that it has finished") {
  const packed_folder folder("two");
  auto result = build(folder.path, 1);
  auto& builder = std::get<packed_builder>(result);
  CHECK(std::get<packed_refusal>(build(folder.path, 1)).why == kind::busy);
  CHECK(in_child([&] {
          const auto other = build(folder.path, 1);
          const auto* refusal = std::get_if<packed_refusal>(&other);
          return refusal && refusal->why == kind::busy ? 7 : 1;
        }) == 7);
  CHECK(std::holds_alternative<packed_builder>(build(folder.path, 2))); // another entry is nobody's concern
  CHECK(write_all(builder));
  CHECK(builder.commit() == "");
  CHECK(std::get<packed_refusal>(build(folder.path, 1)).why == kind::present);
  CHECK(files_in(folder.path) == 1);
}

TEST_CASE("what a killed builder left is taken over, or removed by the builder of another entry") {
  const packed_folder folder("killed");
  const auto die = [&](std::uint64_t number) {
    return in_child([&] {
      auto result = build(folder.path, number);
      auto* builder = std::get_if<packed_builder>(&result);
      ::_exit(builder && builder->write(2, 0, section_bytes(2)) ? 7 : 1); // before anything is destroyed
      return 0;
    });
  };
  REQUIRE(die(1) == 7);
  CHECK(files_in(folder.path) == 1);
  CHECK_FALSE(open(folder.path, 1));
  build_whole(folder.path, key_of(1));
  CHECK(is_whole(*open(folder.path, 1)));
  CHECK(files_in(folder.path) == 1);
  REQUIRE(die(2) == 7);
  CHECK(files_in(folder.path) == 2);
  REQUIRE(die(3) == 7); // which has removed what the second left
  CHECK(files_in(folder.path) == 2);
  build_whole(folder.path, key_of(4));
  CHECK(files_in(folder.path) == 2); // 1 and 4
}

TEST_CASE("a disk that fills is a reason: when space is reserved, and at any write") {
  const packed_folder folder("full");
  fs::create_directories(folder.path);
  // In a child: the limit is the process's, and is what a file system says when it is full but for the error's name.
  CHECK(in_child([&] {
          std::signal(SIGXFSZ, SIG_IGN);
          const rlimit little{8192, RLIM_INFINITY};
          ::setrlimit(RLIMIT_FSIZE, &little);
          const auto result = build(folder.path, 1);
          const auto* refusal = std::get_if<packed_refusal>(&result);
          return refusal && refusal->why == kind::failed &&
                         refusal->sentence.find("File too large") != std::string::npos && files_in(folder.path) == 0
                     ? 7
                     : 1;
        }) == 7);
  for (const rlim_t limit : {rlim_t{4096}, rlim_t{10000}, rlim_t{20000}})
    CHECK(in_child([&] {
            std::signal(SIGXFSZ, SIG_IGN);
            auto result = build(folder.path, 1);
            auto* builder = std::get_if<packed_builder>(&result);
            const rlimit little{limit, RLIM_INFINITY};
            ::setrlimit(RLIMIT_FSIZE, &little);
            const bool failed = builder && !write_all(*builder) && builder->failed();
            const bool clean = files_in(folder.path) == 0 && !builder->commit().empty();
            const bool free = !open(folder.path, 1) && builder->failure().find("File too large") != std::string::npos;
            return failed && clean && free ? 7 : 1;
          }) == 7);
  build_whole(folder.path, key_of(1));
  CHECK(is_whole(*open(folder.path, 1)));
}

TEST_CASE("an entry larger than the disk is refused with both sizes, and one larger than any file with a sentence") {
  const packed_folder folder("large");
  const auto refuse = [&](std::vector<packed_section> wanted) {
    const auto result = packed_cache::build(folder.path, key_of(1), "a model", wanted);
    REQUIRE(std::holds_alternative<packed_refusal>(result));
    CHECK(std::get<packed_refusal>(result).why == kind::failed);
    return std::get<packed_refusal>(result).sentence;
  };
  CHECK_THAT(refuse({{"all", std::uint64_t{1} << 60, std::uint64_t{1} << 40}}),
             Catch::Contains("need") && Catch::Contains("are left"));
  CHECK_THAT(refuse({{"all", ~std::uint64_t{0}}}), Catch::Contains("longer than any file"));
  CHECK_THAT(refuse(std::vector<packed_section>(9, {"some", std::uint64_t{1} << 61})), Catch::Contains("longer"));
  CHECK_THAT(refuse({{std::string(48, 'x'), 1}}), Catch::Contains("name"));
  CHECK_THAT(refuse(std::vector<packed_section>(65537)), Catch::Contains("65536"));
  CHECK_THAT(refuse({{"some", std::uint64_t{1} << 40, 4096}}), Catch::Contains("4194304 blocks"));
  CHECK_THAT(refuse({{"some", 5000, 4097}}), Catch::Contains("a multiple of 4096"));
  CHECK_THAT(refuse({{"some", 5000, 0}}), Catch::Contains("a multiple of 4096"));
  CHECK(files_in(folder.path) == 0);
}

TEST_CASE("a folder that can't be made or written is a reason") {
  const packed_folder folder("unwritable");
  fs::create_directories(folder.path);
  std::ofstream(folder.path / "file") << "in the way";
  const auto below = build(folder.path / "file" / "packed", 1);
  CHECK_THAT(std::get<packed_refusal>(below).sentence, Catch::Contains("can't create"));
  const auto in_place = build(folder.path / "file", 1);
  CHECK(std::get<packed_refusal>(in_place).why == kind::failed);
  CHECK_FALSE(open(folder.path / "file", 1));

  fs::permissions(folder.path,
                  fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_exec | fs::perms::others_read);
  CHECK(in_child([&] {
          if (::geteuid() == 0 && ::seteuid(65534) != 0) // root may write anywhere
            return 7;
          const auto result = build(folder.path, 1);
          const auto* refusal = std::get_if<packed_refusal>(&result);
          return refusal && refusal->sentence.find("Permission denied") != std::string::npos ? 7 : 1;
        }) == 7);
  fs::permissions(folder.path, fs::perms::owner_all);
}

TEST_CASE("who opens while others commit and remove gets a whole entry or none") {
  const packed_folder folder("concurrent");
  std::atomic<bool> stop = false;
  std::atomic<std::size_t> opened = 0, damaged = 0;
  {
    std::vector<std::jthread> readers;
    for (int t = 0; t < 2; ++t)
      readers.emplace_back([&] {
        while (!stop)
          if (const auto file = open(folder.path, 1)) {
            ++opened;
            damaged += !is_whole(*file);
          } else {
            std::this_thread::yield();
          }
      });
    std::size_t built = 0, refused = 0;
    for (int i = 0; i < 400 && (i < 40 || opened == 0); ++i) {
      auto result = build(folder.path, 1);
      if (auto* builder = std::get_if<packed_builder>(&result)) {
        built += write_all(*builder) && builder->commit().empty();
      } else {
        ++refused;
      }
      if (i % 2)
        CHECK(packed_cache::remove(folder.path, key_of(1)) == "");
    }
    CHECK(built > 10);
    CHECK(refused > 10);
    stop = true;
  }
  CHECK(opened > 0);
  CHECK(damaged == 0);
}

TEST_CASE("builders that race for one entry make it once") {
  const packed_folder folder("race");
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> made = 0, failed = 0;
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] {
          auto result = build(folder.path, 1);
          if (auto* builder = std::get_if<packed_builder>(&result))
            made += write_all(*builder) && builder->commit().empty();
          else
            failed += std::get<packed_refusal>(result).why == kind::failed;
        });
    }
    REQUIRE(made == 1);
    REQUIRE(failed == 0);
    REQUIRE(files_in(folder.path) == 1);
    REQUIRE(packed_cache::remove(folder.path, key_of(1)) == "");
  }
}
