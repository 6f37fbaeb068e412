// How many of a row's logits a device is asked for.
#include "src/model/llama.hpp"

#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

TEST_CASE("a device is asked for as many of the top-k logits as it can find, or for all") {
  const gguf_file file = gguf_file::open(testing::tiny_model());
  llama_layout layout = llama_layout::make(llama_config::read(file));
  const auto asked = [&](std::size_t wanted) {
    step s;
    s.top_k = wanted;
    return top_k_of(layout, s);
  };
  REQUIRE(layout.config.vocabulary / 2 >= max_top_k);
  CHECK(asked(0) == 0);
  CHECK(asked(5) == 5);
  CHECK(asked(max_top_k) == max_top_k);
  CHECK(asked(max_top_k + 1) == 0);
  layout.config.vocabulary = 20;
  CHECK(asked(10) == 10);
  CHECK(asked(11) == 0);
  layout.config.vocabulary = max_top_k_vocabulary + 1;
  CHECK(asked(5) == 0);
}
