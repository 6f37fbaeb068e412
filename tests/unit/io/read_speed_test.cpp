// Reads of a file are timed, end, count what they should, and fail with a sentence.
#include "src/io/read_speed.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

using namespace tropilla;

TEST_CASE("reads of a file are timed up to a limit, or until the file ends") {
  const auto path = std::filesystem::temp_directory_path() / ("tropilla-read-speed-" + std::to_string(::getpid()));
  std::ofstream(path) << std::string(40000, 'x'); // nine whole reads
  for (const io_mode mode : {io_mode::buffered, io_mode::direct}) {
    const reader_options how{.mode = mode};
    CHECK(measure_reads(path, how, {4096, 0, 1 << 20}).bytes == 9 * 4096);
    CHECK(measure_reads(path, how, {4096, 7, 5 * 4096}).bytes == 5 * 4096);
    CHECK(measure_reads(path, how, {4096, 0, 0}).bytes == 4096);
    CHECK(measure_reads(path, how, {4096, 0, 1 << 20, 0.0}).bytes == how.depth * 4096); // what was begun ends
    CHECK(measure_reads(path, how, {4096, 0, 1 << 20}).bytes_per_second() > 0);
  }
  CHECK_THROWS_WITH(measure_reads(path, {}, {65536, 0, 65536}), Catch::Contains("shorter than a read of 64.0 KiB"));
  std::filesystem::remove(path);
  CHECK_THROWS_WITH(measure_reads(path, {}, {4096, 0, 4096}), Catch::Contains("No such file"));
}
