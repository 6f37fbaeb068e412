// Rows read by position, and a reader that fails in the middle.
#include "memory/rounding.hpp"
#include "src/io/scattered_reader.hpp"

#include "tests/support/faulty_reader.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <thread>

using namespace tropilla;

namespace {

constexpr std::size_t row_bytes = 333;
constexpr std::size_t table_rows = 1000;

struct table_file {
  table_file() : path(testing::scratch() / "rows.bin"), content(row_bytes * table_rows) {
    std::minstd_rand random(1);
    for (auto& c : content)
      c = static_cast<char>(random());
    std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  }
  [[nodiscard]] const char* row(std::size_t i) const { return content.data() + i * row_bytes; }

  std::filesystem::path path;
  std::vector<char> content;
};

/// A scattered reader with its file reader and scratch.
struct gathering {
  explicit gathering(std::unique_ptr<file_reader> r, std::size_t pieces = 0)
      : reader(std::move(r)), bytes(pieces ? pieces * max_aligned_bytes(row_bytes, reader->alignment())
                                           : scattered_reader::scratch_bytes(*reader, row_bytes)),
        scratch(static_cast<std::byte*>(std::aligned_alloc(4096, round_up(bytes, 4096))), &std::free),
        scattered(*reader, row_bytes, {scratch.get(), bytes}) {}

  std::string gather(const std::vector<std::size_t>& rows) {
    destination.assign(rows.size() * row_bytes, std::byte{0xee});
    std::vector<row_read> wanted;
    for (std::size_t i = 0; i < rows.size(); ++i)
      wanted.push_back({0, rows[i] * row_bytes, row_bytes, destination.data() + i * row_bytes});
    return scattered.read(wanted);
  }
  bool has(const table_file& file, const std::vector<std::size_t>& rows) const {
    for (std::size_t i = 0; i < rows.size(); ++i)
      if (std::memcmp(destination.data() + i * row_bytes, file.row(rows[i]), row_bytes) != 0)
        return false;
    return true;
  }

  std::unique_ptr<file_reader> reader;
  std::size_t bytes;
  std::unique_ptr<std::byte, void (*)(void*)> scratch;
  scattered_reader scattered;
  std::vector<std::byte> destination;
};

std::unique_ptr<file_reader> open_table(const table_file& file, io_mode mode, std::size_t depth) {
  return make_file_reader({&file.path, 1}, {.depth = depth, .mode = mode, .scattered = true});
}

} // namespace

TEST_CASE("rows anywhere, repeated and neighbouring, come back in the order asked for") {
  const table_file file;
  std::minstd_rand random(2);
  for (const auto mode : {io_mode::buffered, io_mode::direct})
    for (const std::size_t depth : {1, 3, 64}) {
      gathering g(open_table(file, mode, depth));
      for (const std::size_t count : {0, 1, 2, 7, 512}) {
        std::vector<std::size_t> rows(count);
        for (auto& r : rows)
          r = random() % 3 ? random() % table_rows : table_rows - 1 - random() % 4; // the file's end, too
        REQUIRE(g.gather(rows) == "");
        REQUIRE(g.has(file, rows));
      }
    }
}

TEST_CASE("scratch for one row is enough") {
  const table_file file;
  gathering g(open_table(file, io_mode::direct, 16), 1);
  const std::vector<std::size_t> rows{999, 0, 17, 0, 500, 501};
  CHECK(g.gather(rows) == "");
  CHECK(g.has(file, rows));
}

TEST_CASE("a row that is asked for many times is read once") {
  const table_file file;
  testing::fault_script script;
  gathering g(std::make_unique<testing::faulty_reader>(open_table(file, io_mode::buffered, 8), script));
  const std::vector<std::size_t> rows(200, 77);
  CHECK(g.gather(rows) == "");
  CHECK(g.has(file, rows));
  CHECK(script.reads() == 1);
}

TEST_CASE("a failed read of a row is a sentence, and the next gather works") {
  const table_file file;
  for (const auto fault : {testing::read_fault::io_failure, testing::read_fault::short_read})
    for (const std::size_t n : {0, 5, 39}) {
      testing::fault_script script;
      script.at(n, fault);
      gathering g(std::make_unique<testing::faulty_reader>(open_table(file, io_mode::buffered, 8), script));
      std::vector<std::size_t> rows(40);
      for (std::size_t i = 0; i < rows.size(); ++i)
        rows[i] = i * 20;
      CHECK_THAT(g.gather(rows),
                 Catch::Contains(fault == testing::read_fault::io_failure ? "Input/output error" : "the file ended"));
      CHECK(g.reader->in_flight() == 0);
      CHECK(g.gather(rows) == "");
      CHECK(g.has(file, rows));
    }
}

TEST_CASE("a read that hangs holds up only its gather") {
  const table_file file;
  testing::fault_script script;
  script.at(3, testing::read_fault::hang);
  gathering g(std::make_unique<testing::faulty_reader>(open_table(file, io_mode::buffered, 8), script));
  const std::vector<std::size_t> rows{1, 100, 200, 300, 400, 500, 600, 700, 800, 900};
  std::string failure = "not yet";
  std::jthread reader([&] { failure = g.gather(rows); });
  script.wait_until_hanging();
  script.release();
  reader.join();
  CHECK(failure == "");
  CHECK(g.has(file, rows));
}
