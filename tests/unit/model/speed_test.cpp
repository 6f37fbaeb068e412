// Measurements end, count what they should, and fail with a sentence. How fast anything is, no test can know.
#include "src/io/read_speed.hpp"
#include "src/model/layer_speed.hpp"
#include "tests/support/tiny_model.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <fstream>

using namespace tropilla;

TEST_CASE("reads of a file are timed up to a limit, or until the file ends") {
  const auto path = std::filesystem::temp_directory_path() / "tropilla-read-speed";
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

TEST_CASE("a layer is measured for any number of rows, any type and any precision") {
  for (const auto type : {tensor_type::q4_k, tensor_type::f16}) {
    const auto layout = llama_layout::make(llama_config::read(gguf_file::open(testing::tiny_model(type))));
    for (const bool precise : {false, true})
      for (const std::size_t rows : {1, 33, 100}) {
        host_options options;
        options.threads = 2;
        options.precise = precise;
        CHECK(measure_prefill(layout, *make_host_device(options), rows, 0.002) > 0);
        CHECK(measure_prefill(layout, *make_host_device(options), rows, 0) > 0); // at least a pass
        CHECK(measure_decode(layout, *make_host_device(options), rows << 12, 0) > 0);
      }
  }
}

TEST_CASE("parameters of a layer are those of its matrices") {
  const auto layout = llama_layout::make(llama_config::read(gguf_file::open(testing::tiny_model(tensor_type::q8_0))));
  const auto& c = layout.config;
  const std::size_t q = c.attention.heads * c.attention.key_size, kv = c.attention.kv_heads * c.attention.key_size;
  CHECK(matrix_parameters(layout.groups[1]) == c.width * (2 * q + 2 * kv) + 3 * c.width * c.ffn_width);
}
