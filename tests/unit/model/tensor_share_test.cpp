// Several devices that compute every layer together against one that computes all of it, bit by bit.
#include "src/model/tensor_share.hpp"
#include "tests/support/lone_model.hpp"
#include "tests/support/tiny_model.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <barrier>
#include <cstring>
#include <thread>

using namespace tropilla;
using tropilla::testing::lone_model;

namespace {

constexpr run_shape small{96, 48, 48};

host_options device_options(std::size_t rank, std::size_t threads, bool precise) {
  host_options options;
  options.name = "host:" + std::to_string(rank);
  options.threads = threads;
  options.precise = precise;
  return options;
}

/// How the ranks' embeddings and heads are cut: what each has room for.
enum class forms : std::uint8_t { whole, tiled, mixed };

/// The logits of `ids` by as many devices as there are weights.
std::vector<float> logits_of_group(const std::filesystem::path& path, std::span<const double> weights, bool precise,
                                   forms form, std::span<const token_id> ids, std::size_t rows) {
  const auto model = llama_config::read(gguf_file::open(path));
  std::vector<std::unique_ptr<lone_model>> ranks;
  std::vector<std::size_t> workers;
  for (std::size_t r = 0; r < weights.size(); ++r) {
    workers.push_back(1 + r % 2);
    const bool tiled = form == forms::tiled || (form == forms::mixed && r % 2 == 0);
    ranks.push_back(std::make_unique<lone_model>(path, device_options(r, workers.back(), precise), small,
                                                 tiled ? weight_form::tiled : weight_form::whole, tiled ? 40000 : 0,
                                                 tensor_share::divide(model, weights, r)));
  }
  const auto group = make_host_group(workers, std::chrono::seconds(60));
  std::vector<std::vector<float>> logits(ranks.size());
  {
    std::barrier all(static_cast<std::ptrdiff_t>(ranks.size()));
    std::vector<std::jthread> threads;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      threads.emplace_back(
          [&, r] { logits[r] = ranks[r]->logits(ids, rows, group[r].get(), [&] { all.arrive_and_wait(); }); });
  }
  for (const auto& g : group)
    CHECK_FALSE(g->failure());
  return logits[0];
}

} // namespace

TEST_CASE("the logits of 1, 2, 3 and 4 devices are the same bits, divided evenly or not") {
  const auto type = GENERATE(tensor_type::q4_0, tensor_type::q4_k, tensor_type::f16, tensor_type::f32);
  const bool precise = type == tensor_type::q4_0 && GENERATE(false, true);
  const auto form = GENERATE(forms::whole, forms::tiled, forms::mixed);
  const auto path = testing::model_of_shape("mini-heads", type);
  lone_model alone(path, device_options(0, 2, precise), small);
  const auto ids = synthetic_ids(70, alone.layout.config.vocabulary);
  const auto expected = alone.logits(ids, 48);
  for (const auto& weights : {std::vector{1.0}, std::vector{1.0, 1.0}, std::vector{1.0, 3.0},
                              std::vector{1.0, 1.0, 1.0}, std::vector{5.0, 1.0, 2.0}, std::vector{1.0, 1.0, 1.0, 1.0}})
    for (const std::size_t rows : {48, 1}) {
      INFO(info(type).name << (precise ? " precise " : " ")
                           << (form == forms::whole   ? ""
                               : form == forms::tiled ? "tiled "
                                                      : "mixed ")
                           << weights.size() << " devices, the first of weight " << weights.front() << ", " << rows
                           << " rows a step");
      const auto got = logits_of_group(path, weights, precise, form, std::span(ids).first(rows == 1 ? 20 : 70), rows);
      CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
    }
}

TEST_CASE("an untied head and a whole embedding are divided, too") {
  const auto path = testing::model_of_shape("mini-untied", tensor_type::q8_0);
  lone_model alone(path, device_options(0, 1, false), small);
  const auto ids = synthetic_ids(40, alone.layout.config.vocabulary);
  const auto expected = alone.logits(ids, 48);
  for (const auto form : {forms::whole, forms::tiled, forms::mixed}) {
    const auto got = logits_of_group(path, std::vector{2.0, 3.0}, false, form, ids, 17);
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("widths that are no whole blocks of an activation are divided, too") {
  const auto type = GENERATE(tensor_type::q8_0, tensor_type::f16);
  const bool precise = GENERATE(false, true);
  const auto path = testing::model_of_shape("mini-odd", type);
  lone_model alone(path, device_options(0, 1, precise), small);
  const auto ids = synthetic_ids(40, alone.layout.config.vocabulary);
  const auto expected = alone.logits(ids, 48);
  for (const auto& weights : {std::vector{1.0, 1.0}, std::vector{1.0, 5.0}}) {
    const auto got = logits_of_group(path, weights, precise, forms::mixed, ids, 17);
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
  }
  CHECK_THROWS_WITH(tensor_share::divide(alone.layout.config, std::vector(3, 1.0), 0),
                    Catch::Contains("3 devices can't share 6 KV heads, which are divided by 4"));
}

TEST_CASE("the shares of a model's weights together are one copy of it, but for norms and padding") {
  const auto path = testing::model_of_shape("mini-heads", tensor_type::q4_0);
  const auto model = llama_config::read(gguf_file::open(path));
  const auto bytes_of = [](const llama_layout& l) {
    std::size_t sum = 0;
    for (const auto& g : l.groups)
      sum += g.bytes;
    return sum;
  };
  const std::size_t whole = bytes_of(llama_layout::make(model));
  for (const auto& weights : {std::vector{1.0, 1.0}, std::vector{1.0, 2.0, 1.0}, std::vector(4, 1.0)}) {
    std::size_t sum = 0;
    for (std::size_t r = 0; r < weights.size(); ++r)
      sum += bytes_of(llama_layout::make(model, weight_form::whole, 0, {}, tensor_share::divide(model, weights, r)));
    const std::size_t norms = (weights.size() - 1) * (2 * model.layers + 1) * model.width * sizeof(float);
    CHECK(sum >= whole);
    CHECK(sum <= whole + norms + whole / 100);
  }
}

TEST_CASE("shares cover each dimension once, in proportion to the weights") {
  const auto model = llama_config::read(gguf_file::open(testing::model_of_shape("mini-heads", tensor_type::q4_0)));
  const std::vector weights{3.0, 1.0};
  const auto first = tensor_share::divide(model, weights, 0), second = tensor_share::divide(model, weights, 1);
  for (const auto member : {&tensor_share::kv_heads, &tensor_share::attn_values, &tensor_share::ffn,
                            &tensor_share::width, &tensor_share::vocabulary}) {
    CHECK(first.*member == second.*member);
    const auto mine = first.of(first.*member), other = second.of(second.*member);
    CHECK(mine.first == 0);
    CHECK(other.first == mine.count);
    CHECK(mine.count == 3 * other.count);
  }
  CHECK(second.of(second.vocabulary).first + second.of(second.vocabulary).count == model.vocabulary);
  CHECK(attention_of(model, first).heads == 3 * attention_of(model, second).heads);
}

TEST_CASE("more devices than KV heads are refused with the numbers") {
  const auto model = llama_config::read(gguf_file::open(testing::tiny_model()));
  CHECK_THROWS_WITH(tensor_share::divide(model, std::vector(3, 1.0), 0),
                    Catch::Contains("3 devices can't share 2 KV heads"));
}

TEST_CASE("what other devices may still read is not overwritten before the next exchange") {
  const auto model = llama_config::read(gguf_file::open(testing::tiny_model()));
  const auto dev = make_host_device(device_options(0, 1, false));
  const auto layout =
      llama_layout::make(model, weight_form::whole, 0, {}, tensor_share::divide(model, std::vector{1.0, 1.0}, 1));
  const auto buffers = forward_buffers(layout, small, *dev);
  const auto plan = assign_offsets(buffers, 64);
  const auto apart = [&](buffer read, buffer written) {
    const auto r = static_cast<std::size_t>(read), w = static_cast<std::size_t>(written);
    REQUIRE(buffers[r].bytes > 0);
    REQUIRE(buffers[w].bytes > 0);
    return plan.offsets[r] + buffers[r].bytes <= plan.offsets[w] ||
           plan.offsets[w] + buffers[w].bytes <= plan.offsets[r];
  };
  for (const auto written : {buffer::head_rows, buffer::head_input, buffer::logits}) // the next is that of the logits
    CHECK(apart(buffer::hidden, written));
  CHECK(apart(buffer::o_proj_part, buffer::o_proj_input));
  CHECK(apart(buffer::ffn_part, buffer::ffn_result));
}
