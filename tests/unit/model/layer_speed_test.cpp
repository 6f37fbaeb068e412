// Measurements of a layer end and count what they should. How fast anything is, no test can know.
#include "src/model/layer_speed.hpp"

#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

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
