// The search for a run's shape: as many pages as fit while weights are streamed.
#include "src/placement/placement_search.hpp"

#include "tests/support/tiny_model.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <numeric>

using namespace tropilla;

namespace {

constexpr std::size_t context = 64, sequences = 4;

run_shape shape_of(std::size_t batch_tokens = 32) {
  run_shape s;
  s.context = context;
  s.max_batch_tokens = batch_tokens;
  s.logit_rows = s.sequences = sequences;
  s.kv_tokens = context * sequences;
  return s;
}

/// The tiny model on devices of the host, with the layers divided between them.
std::vector<placed_shard> shards_with(const std::vector<std::size_t>& budgets) {
  const auto file = gguf_file::open(testing::tiny_model());
  std::vector<placed_shard> shards(budgets.size());
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    host_options options;
    options.name = "host:" + std::to_string(i);
    options.threads = 1;
    auto& s = shards[i];
    s.dev = make_host_device(options);
    s.budget = budgets[i];
    s.has_budget = budgets[i] > 0;
    s.input = {llama_config::read(file), shape_of(), {}, s.dev.get(), file.files, {}, {}};
    s.input.holds_requests = i == 0;
  }
  divide_model(shards, {shards.size(), 1}, shards.front().input.model, context * sequences);
  return shards;
}

llama_config with_layers(const std::vector<placed_shard>& shards, std::size_t layers) {
  auto model = shards.front().input.model;
  model.layers = layers;
  return model;
}

std::size_t total(const std::vector<placed_shard>& shards) {
  return std::accumulate(shards.begin(), shards.end(), std::size_t{0},
                         [](std::size_t sum, const placed_shard& s) { return sum + s.placement->plan.total; });
}

/// Bytes with everything in memory, and with as little as possible of it.
std::pair<std::size_t, std::size_t> extremes() {
  auto whole = shards_with({0}), least = shards_with({1});
  (void)placement_search(whole, {shape_of(), {}, false}).find();
  (void)placement_search(least, {shape_of(), {}, false}).find();
  return {total(least), total(whole)};
}

/// Whether so many tokens with pages fit a budget, with streamed weights or without.
bool fits_with(std::size_t budget, std::size_t kv_tokens, bool streamed) {
  auto shards = shards_with({budget});
  auto shape = shape_of();
  shape.kv_tokens = kv_tokens;
  (void)placement_search(shards, {shape, {}, true}).find();
  return shards.front().fits() && (streamed || shards.front().full_plan.ring_slots == 0);
}

} // namespace

TEST_CASE("without a budget and a limit everything stays, with the pages of the first choice") {
  auto shards = shards_with({0});
  const auto found = placement_search(shards, {shape_of(), {}, false}).find();
  CHECK(found.kv_tokens == context * sequences);
  CHECK(!shards.front().streams());
  CHECK(shards.front().fits());
  CHECK(shards.front().everything == total(shards));
}

TEST_CASE("the most contexts are found that fit while weights are streamed, and pages that fit without streaming") {
  const auto [least, whole] = extremes();
  bool streamed = false, fewer = false;
  for (std::size_t budget = least; budget < whole + 4096; budget += (whole - least) / 40 + 1) {
    CAPTURE(budget, least, whole);
    auto shards = shards_with({budget});
    const auto found = placement_search(shards, {shape_of(), {}, false}).find();
    const auto& s = shards.front();
    CHECK(s.fits());
    CHECK(found.kv_tokens >= context);
    CHECK(found.kv_tokens <= context * sequences);
    CHECK(s.full_plan.kv_pages == kv_pages_for(found.kv_tokens));
    CHECK(s.input.shape.kv_tokens == found.kv_tokens);
    const std::size_t contexts = found.kv_tokens / context;
    if (contexts < sequences) {
      fewer = true;
      CHECK(!fits_with(budget, (contexts + 1) * context, true));
    }
    streamed = streamed || s.full_plan.ring_slots > 0;
    if (found.kv_tokens % context != 0)
      CHECK(fits_with(budget, found.kv_tokens, false));
  }
  CHECK(streamed);
  CHECK(fewer);
}

TEST_CASE("where another context is more than streaming makes room for, spare bytes become pages") {
  auto shape = shape_of();
  shape.context = 2048;
  shape.kv_tokens = 4 * shape.context;
  auto shards = shards_with({0});
  shards.front().input.shape = shape;
  const std::size_t pages = 66; // a context has 64
  shards.front().budget = place(shards.front().input, 0, pages)->plan.total;
  shards.front().has_budget = true;
  const auto found = placement_search(shards, {shape, {}, false}).find();
  CHECK(found.kv_tokens > shape.context);
  CHECK(found.kv_tokens < 2 * shape.context);
  CHECK(found.kv_tokens / kv_page_tokens >= pages);
  CHECK(shards.front().full_plan.ring_slots == 0);
}

TEST_CASE("a search leaves the division for an ordinary request, which streams least") {
  auto whole = shards_with({0});
  (void)placement_search(whole, {shape_of(), {}, true}).find();
  const std::size_t half = place(whole.front().input, 0, sequences)->plan.total; // a page for each
  auto shards = shards_with({half});
  placement_search search(shards, {shape_of(), {}, true});
  (void)search.find();
  const auto& s = shards.front();
  REQUIRE(s.full_plan.ring_slots > 0);
  REQUIRE(search.balance());
  CHECK(s.placement == search.balance()->current().placements.front());
  CHECK(s.placement->plan.kv_pages >= context / kv_page_tokens);
  CHECK(s.placement->plan.kv_pages < s.full_plan.kv_pages);
  CHECK(s.placement->plan.total <= s.budget);
  CHECK(!s.streams());
}

TEST_CASE("what fits no budget has the smallest plan of the smallest shape, and nothing divides it") {
  auto shards = shards_with({1});
  placement_search search(shards, {shape_of(), {}, false});
  CHECK(search.find().kv_tokens == context);
  CHECK(!search.balance());
  CHECK(!shards.front().fits());
  CHECK(shards.front().placement->plan.total == shards.front().full_plan.total);
}

TEST_CASE("tokens with KV pages that were asked for are kept, whatever streams") {
  const auto [least, whole] = extremes();
  auto shards = shards_with({(least + whole) / 2});
  const auto found = placement_search(shards, {shape_of(), {}, true}).find();
  CHECK(found.kv_tokens == context * sequences);
  CHECK(shards.front().full_plan.ring_slots > 0);
  auto too_small = shards_with({least});
  CHECK(placement_search(too_small, {shape_of(), {}, true}).find().kv_tokens == context * sequences);
  CHECK(!too_small.front().fits());
}

TEST_CASE("smaller steps are tried where larger ones exceed a budget, and only there") {
  auto small = shards_with({1});
  (void)placement_search(small, {shape_of(16), {}, false}).find();
  const std::size_t enough_for_small = total(small);
  auto large = shards_with({1});
  (void)placement_search(large, {shape_of(128), {}, false}).find();
  REQUIRE(total(large) > enough_for_small);

  for (const std::size_t budget : {enough_for_small, total(large)}) {
    auto shards = shards_with({budget});
    const auto found = placement_search(shards, {shape_of(128), shape_of(16), false}).find();
    CHECK(shards.front().fits());
    // Sparing pages makes steps smaller, too, but not as small.
    CHECK((found.max_batch_tokens == 16) == (budget == enough_for_small));
  }
  auto as_asked = shards_with({enough_for_small});
  CHECK(placement_search(as_asked, {shape_of(128), {}, false}).find().max_batch_tokens > 16);
  CHECK(!as_asked.front().fits());
}

TEST_CASE("a device without a budget has its limit where everything is more than that") {
  const auto [least, whole] = extremes();
  auto shards = shards_with({0});
  shards.front().input.limit = {.bytes = (least + whole) / 2, .set_by = "a test"};
  (void)placement_search(shards, {shape_of(), {}, false}).find();
  const auto& s = shards.front();
  CHECK(s.budget == (least + whole) / 2);
  CHECK(s.everything == whole);
  CHECK(s.fits());
  CHECK(s.bound() == std::pair{(least + whole) / 2, std::string("a test")});
}

TEST_CASE("a budget of more than the machine has is bounded by the machine") {
  auto shards = shards_with({std::size_t{1} << 30});
  shards.front().input.limit = {.bytes = 1000, .set_by = "a test", .machine = 2000};
  (void)placement_search(shards, {shape_of(), {}, false}).find();
  CHECK(shards.front().bound() == std::pair{std::size_t{2000}, std::string("all memory that the machine has")});
  CHECK(!shards.front().fits());
}

TEST_CASE("pages are given up for what the machine has, and spare bytes of a larger budget bring none back") {
  auto whole = shards_with({0}), least = shards_with({0});
  (void)placement_search(whole, {shape_of(), {}, true}).find();
  auto shape = shape_of();
  shape.kv_tokens = 2 * context;
  (void)placement_search(least, {shape, {}, true}).find();
  auto shards = shards_with({std::size_t{1} << 30});
  shards.front().input.limit = {.bytes = 1000, .set_by = "a test", .machine = total(least)};
  REQUIRE(total(least) < total(whole));
  CHECK(placement_search(shards, {shape_of(), {}, false}).find().kv_tokens == 2 * context);
  CHECK(shards.front().fits());
}

TEST_CASE("layers are divided as budgets are, each once and at least one a device") {
  const std::size_t layers = shards_with({0}).front().input.model.layers;
  REQUIRE(layers >= 2);
  for (const auto& budgets : std::vector<std::vector<std::size_t>>{{1, 1}, {1, 1000000}, {1000000, 1}, {0, 0}}) {
    const auto shards = shards_with(budgets);
    CHECK(shards.front().input.layers.first == 0);
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const auto [first, last] = shards[i].input.layers;
      CHECK(first < last);
      CHECK(last == (i + 1 < shards.size() ? shards[i + 1].input.layers.first : layers));
    }
  }
  auto shards = shards_with({3, 1});
  divide_model(shards, {2, 1}, with_layers(shards, 8), 0);
  CHECK(shards[0].input.layers.last == 6);
  CHECK(shards[1].input.layers.last == 8);
}

TEST_CASE("stages get layers by what their devices have together, and these shares by what each has") {
  auto shards = shards_with({3, 3, 1, 1});
  auto model = with_layers(shards, 8);
  model.attention.kv_heads = 8;
  divide_model(shards, {2, 2}, model, 0);
  for (std::size_t i = 0; i < 4; ++i) {
    const auto& input = shards[i].input;
    CHECK(input.layers.first == (i < 2 ? 0 : 6));
    CHECK(input.layers.last == (i < 2 ? 6 : 8));
    REQUIRE(input.share);
    CHECK(input.share->rank == i % 2);
    CHECK(input.share->of(input.share->kv_heads) == share_range{i % 2 * 4, 4});
  }
  shards = shards_with({3, 1});
  divide_model(shards, {1, 2}, model, 0);
  CHECK(shards[0].input.share->of(shards[0].input.share->kv_heads).count == 6);
  shards[1].budget = 0; // which counts as much as any other
  divide_model(shards, {1, 2}, model, 0);
  CHECK(shards[0].input.share->of(shards[0].input.share->kv_heads).count == 4);
}

TEST_CASE("what requests hold buys no layers") {
  auto shards = shards_with({0, 0});
  shards[0].input.holds_requests = true;
  const std::size_t requests = shards[0].input.request_bytes(context);
  REQUIRE(requests > 0);
  shards[0].budget = requests + 100;
  shards[1].budget = 100;
  divide_model(shards, {2, 1}, with_layers(shards, 8), context);
  CHECK(shards[0].input.layers.last == 4);
}

TEST_CASE("pinned memory without a GPU is refused") {
  auto shards = shards_with({0});
  CHECK_THROWS_WITH(divide_pinned(shards, 4096), Catch::Contains("no GPU is asked for"));
  CHECK_NOTHROW(divide_pinned(shards, 0));
  CHECK(shards.front().input.pinned_bytes == 0);
}
