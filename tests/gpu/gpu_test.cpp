// The cast on the first GPU of this machine, beside the host: every type of weights, every type of keys and values,
// streaming, batching, and budgets. Without a GPU the program says so and ends with 77, which ctest takes for skipped.
// Lines "measured: NAME NUMBER" are for scripts/gpu_report.py.
#include "runtime/runtime_impl.hpp"
#include "tests/gpu/needs_gpu.hpp"
#include "tests/support/before_tests.hpp"
#include "tests/support/counting_gpu.hpp"
#include "tests/support/cuda_cases.hpp"
#include "tests/support/skipped.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>

#include <cstdlib>
#include <fmt/format.h>
#include <span>
#include <string_view>

using namespace tropilla;
using testing::difference;
using testing::logits_of;
using testing::reply_of;

namespace {

runtime_config host_config(tensor_type type, std::string_view kv = "") {
  auto c = testing::tiny_config(2, 512);
  c.model = testing::tiny_model(type, false);
  c.kv_type = kv;
  return c;
}

runtime_config on_gpu(runtime_config c, std::size_t budget = 0) {
  c.devices = {{"cuda:0", budget}};
  return c;
}

std::vector<token_id> long_prompt(std::size_t tokens) {
  std::vector<token_id> ids;
  for (std::size_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<token_id>(1 + i * 37 % 250));
  return ids;
}

void tell(std::string_view name, double value) {
  fmt::print("measured: {} {:.3g}\n", name, value);
}

std::size_t argmax(std::span<const float> row) {
  return static_cast<std::size_t>(std::ranges::max_element(row) - row.begin());
}

/// What a GPU makes of a text that the host continued: the same distributions, and the same most likely tokens, but
/// where the host itself hardly prefers one. Both round activations to int8, and a last bit decides which way.
void require_like_host(const runtime_config& config, std::vector<token_id> ids, std::size_t tokens) {
  constexpr float near_tie = 0.1F; // nats; distributions are about 0.02 apart
  runtime_impl host(config, nullptr), gpu(on_gpu(config), nullptr);
  const auto reply = reply_of(host, ids, tokens);
  ids.insert(ids.end(), reply.begin(), reply.end());
  const auto wanted = logits_of(host, ids), found = logits_of(gpu, ids);
  CHECK(difference(found, wanted) < 0.03);
  double most = 0;
  std::size_t differ = 0, ties = 0;
  for (std::size_t at = 0; at < wanted.size(); at += host.vocabulary) {
    const auto of_host = std::span(wanted).subspan(at, host.vocabulary);
    const auto of_gpu = std::span(found).subspan(at, host.vocabulary);
    most = std::max(most, testing::divergence(of_gpu, of_host));
    const float lead = of_host[argmax(of_host)] - of_host[argmax(of_gpu)];
    differ += lead > near_tie ? 1 : 0;
    ties += lead > 0 && lead <= near_tie ? 1 : 0;
  }
  tell("kl", most);
  tell("greedy_tokens_that_differ", static_cast<double>(differ));
  tell("near_ties_that_differ", static_cast<double>(ties));
  CHECK(most < 1e-3);
  CHECK(differ == 0);
}

generation_options greedy(std::size_t tokens) {
  generation_options o;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  return o;
}

} // namespace

TEST_CASE("every type of weights gives the host's distributions and tokens", "[small]") {
  for (const tensor_type_info& type : tensor_types()) {
    INFO(type.name);
    require_like_host(host_config(type.type), long_prompt(40), 8);
  }
}

TEST_CASE("a wide model gives the host's distributions and tokens, and the same bits in steps of any size") {
  for (const auto type : {tensor_type::bf16, tensor_type::f16, tensor_type::q4_0}) {
    INFO(info(type).name);
    auto config = host_config(type);
    config.model = testing::model_of_shape("mini-wide", type); // wide enough for what Hopper's warpgroups multiply
    require_like_host(config, long_prompt(200), 8);
    runtime_impl large(on_gpu(config), nullptr);
    config.max_batch_tokens = 24;
    runtime_impl small(on_gpu(config), nullptr);
    CHECK(logits_of(large, long_prompt(200)) == logits_of(small, long_prompt(200)));
  }
}

TEST_CASE("a model of TROPILLA_TEST_MODEL gives the host's distributions and tokens") {
  const char* const path = std::getenv("TROPILLA_TEST_MODEL");
  if (path == nullptr) {
    testing::skipped("TROPILLA_TEST_MODEL names no model"); // it is too large to travel with the tests
    return;
  }
  runtime_config config;
  config.model = path;
  config.context = 256;
  const auto ids = [&] {
    runtime_impl host(config, nullptr);
    return host.encode("The capital of France is", false);
  }();
  require_like_host(config, ids, 32);
}

TEST_CASE("every type of keys and values gives the host's logits, also of a long context") {
  for (const std::string_view kv : {"f16", "bf16", "q8_0"}) {
    INFO(kv);
    const auto config = host_config(tensor_type::q8_0, kv);
    runtime_impl host(config, nullptr), gpu(on_gpu(config), nullptr);
    CHECK(difference(logits_of(gpu, long_prompt(500)), logits_of(host, long_prompt(500))) < 0.03);
  }
}

TEST_CASE("a streamed model gives the same bits as one in memory", "[small]") {
  const auto config = host_config(tensor_type::q4_0);
  runtime_impl whole(on_gpu(config), nullptr);
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  runtime_impl streamed(on_gpu(config, smallest), nullptr);
  CHECK(streamed.report.residency.find('S') != std::string::npos);
  CHECK(logits_of(streamed, long_prompt(70)) == logits_of(whole, long_prompt(70)));
  CHECK(streamed.arbiter->usage("cuda:0").high_water <= smallest);
}

TEST_CASE("a streamed model whose weights are pinned gives the same bits, in the first step and later", "[small]") {
  auto config = host_config(tensor_type::q8_0);
  runtime_impl whole(on_gpu(config), nullptr);
  const auto wanted = logits_of(whole, long_prompt(70));
  config.pinned_bytes = std::size_t{64} << 20;
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  runtime_impl pinned(on_gpu(config, smallest), nullptr);
  CHECK(pinned.report.residency.find('S') != std::string::npos);
  for (int i = 0; i < 3; ++i)
    CHECK(logits_of(pinned, long_prompt(70)) == wanted);
}

TEST_CASE("a reply does not depend on who else is computed, nor on how long its prompt is") {
  auto config = on_gpu(host_config(tensor_type::q4_0));
  config.sequences = 8;
  runtime_impl rt(config, nullptr);
  for (const std::size_t length : {1, 33, 70, 200}) {
    INFO(length << " tokens");
    const auto prompt = long_prompt(length);
    const auto alone = reply_of(rt, prompt, 60);
    CHECK(alone.size() == 60);
    std::vector<std::shared_ptr<reply_channel>> others;
    for (token_id i = 4; i < 11; ++i) {
      others.push_back(std::make_shared<reply_channel>());
      (void)rt.submit(rt.make_request({i, 8, 7, 6}, greedy(80), false, others.back()));
    }
    CHECK(reply_of(rt, prompt, 60) == alone);
    // In a runtime that has not seen it, and beside others from its first row on.
    runtime_impl fresh(config, nullptr);
    (void)fresh.submit(fresh.make_request({5, 8, 7, 6}, greedy(80), false, std::make_shared<reply_channel>()));
    CHECK(reply_of(fresh, prompt, 60) == alone);
    for (const auto& other : others)
      while (other->next_piece())
        ;
  }
}

TEST_CASE("a reply is the same whether all logits are copied or the top-k ones", "[small]") {
  runtime_impl rt(on_gpu(host_config(tensor_type::q4_0)), nullptr);
  for (const bool warm : {false, true}) {
    auto o = greedy(20);
    o.sampling.temperature = warm ? 1.5 : 0;
    o.sampling.top_k = warm ? 7 : 0;
    o.sampling.seed = 5;
    o.logprobs = 0;
    const auto some = reply_of(rt, long_prompt(10), o);
    CHECK(some.size() == 20);
    o.logprobs = 1; // of all
    CHECK(reply_of(rt, long_prompt(10), o) == some);
  }
}

TEST_CASE("once warm, a token allocates nothing of CUDA") {
  const auto count = std::make_shared<std::atomic<std::int64_t>>(0);
  runtime_hooks hooks;
  hooks.open_gpu = [count](int index) { return std::make_unique<testing::counting_gpu>(cuda::open_gpu(index), count); };
  constexpr std::size_t tokens = 40;
  auto config = host_config(tensor_type::q4_0);
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  for (const bool streamed : {false, true}) {
    INFO((streamed ? "streamed" : "in memory"));
    runtime_impl rt(on_gpu(config, streamed ? smallest : 0), nullptr, hooks);
    std::int64_t before = 0;
    for (int i = 0; i < 3; ++i) { // the second finds its prompt, and its steps are others
      before = *count;
      CHECK(reply_of(rt, {1, 2, 3}, tokens).size() == tokens);
    }
    tell("allocations_per_token", static_cast<double>(*count - before) / static_cast<double>(tokens));
    CHECK(*count == before);
  }
}

TEST_CASE("memory comes and goes with the budget") {
  auto config = host_config(tensor_type::q4_0);
  config.kv_tokens = 512; // as many with either budget
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  const auto before = cuda::list_gpus().gpus.front().free_bytes;
  {
    runtime_impl rt(on_gpu(config), nullptr);
    const auto text = reply_of(rt, {1, 2, 3}, 10);
    rt.set_budget(smallest, "cuda:0");
    CHECK(reply_of(rt, {1, 2, 3}, 10) == text);
    CHECK(rt.arbiter->usage("cuda:0").in_use <= smallest);
  }
  const auto after = cuda::list_gpus().gpus.front().free_bytes;
  CHECK(after + (std::size_t{64} << 20) >= before); // the driver keeps some for itself
}

int testing::before_tests(int count, char** arguments) {
  return status_without_gpu(count, arguments);
}
