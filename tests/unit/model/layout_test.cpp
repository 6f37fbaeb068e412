// What a layout says of the bytes that a token reads and of the values that pass between matrices.
#include "src/model/llama_layout.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

TEST_CASE("a token reads every group but the embedding, and the embedding where it is the head as well") {
  auto config = llama_config::read(gguf_file::open(testing::tiny_model()));
  const auto read = [&] {
    const auto layout = llama_layout::make(config);
    std::size_t others = 0;
    for (std::size_t g = 1; g < layout.groups.size(); ++g)
      others += layout.groups[g].bytes;
    CHECK(others > 0);
    return std::pair{layout.decode_bytes() - others, layout.groups.front().bytes};
  };
  if (!config.output)
    config.output = config.token_embedding;
  CHECK(read().first == 0);
  config.output.reset();
  CHECK(read().first == read().second);
}

TEST_CASE("values that go into a matrix are kept as its type wants them, each kind of matrix by itself") {
  auto config = llama_config::read(gguf_file::open(testing::tiny_model(tensor_type::q4_0)));
  const auto kinds = [&] { return activation_kinds(llama_layout::make(config)); };
  const auto quantised = kinds();
  const auto alone = [&](auto member, auto changed) {
    auto& type = (config.layer_sources.front().*member).type;
    const auto before = std::exchange(type, tensor_type::f32);
    const auto now = kinds();
    type = before;
    CHECK(now.*changed != quantised.*changed);
    std::size_t same = 0;
    for (const auto kind : {&activation_kinds_of_model::attn_input, &activation_kinds_of_model::o_proj_input,
                            &activation_kinds_of_model::ffn_input, &activation_kinds_of_model::ffn_result})
      same += now.*kind == quantised.*kind ? 1 : 0;
    CHECK(same == 3);
  };
  using layer = llama_layer_sources;
  using kind = activation_kinds_of_model;
  alone(&layer::attn_k, &kind::attn_input);
  alone(&layer::attn_output, &kind::o_proj_input);
  alone(&layer::ffn_up, &kind::ffn_input);
  alone(&layer::ffn_down, &kind::ffn_result);
}
