// The cast on the first GPU of this machine, beside the host: every type of weights, every type of keys and values,
// streaming, batching, and budgets. Without a GPU the program says so and ends with 77, which ctest takes for skipped.
#include "actors/runtime_impl.hpp"
#include "kernels/cuda/gpus.hpp"
#include "tests/support/before_tests.hpp"
#include "tests/support/cuda_cases.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>

#include <fmt/format.h>

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

} // namespace

TEST_CASE("every type of weights gives the host's logits", "[small]") {
  for (const tensor_type_info& type : tensor_types()) {
    INFO(type.name);
    runtime_access::parts host(host_config(type.type), nullptr), gpu(on_gpu(host_config(type.type)), nullptr);
    CHECK(difference(logits_of(gpu, long_prompt(40)), logits_of(host, long_prompt(40))) < 0.02);
  }
}

TEST_CASE("every type of keys and values gives the host's logits, also of a long context") {
  for (const std::string_view kv : {"f16", "bf16", "q8_0"}) {
    INFO(kv);
    const auto config = host_config(tensor_type::q8_0, kv);
    runtime_access::parts host(config, nullptr), gpu(on_gpu(config), nullptr);
    CHECK(difference(logits_of(gpu, long_prompt(500)), logits_of(host, long_prompt(500))) < 0.03);
  }
}

TEST_CASE("a streamed model gives the same bits as one in memory", "[small]") {
  const auto config = host_config(tensor_type::q4_0);
  runtime_access::parts whole(on_gpu(config), nullptr);
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  runtime_access::parts streamed(on_gpu(config, smallest), nullptr);
  CHECK(streamed.report.residency.find('S') != std::string::npos);
  CHECK(logits_of(streamed, long_prompt(70)) == logits_of(whole, long_prompt(70)));
  CHECK(streamed.ledger->usage("cuda:0").high_water <= smallest);
}

TEST_CASE("a reply does not depend on who else is computed") {
  auto config = on_gpu(host_config(tensor_type::q4_0));
  config.sequences = 8;
  runtime_access::parts rt(config, nullptr);
  const auto alone = reply_of(rt, {1, 2, 3}, 60);
  CHECK(alone.size() == 60);
  std::vector<std::shared_ptr<reply_channel>> others;
  generation_options o;
  o.max_tokens = 80;
  o.ignore_eos = true;
  for (token_id i = 4; i < 11; ++i) {
    others.push_back(std::make_shared<reply_channel>());
    (void)rt.submit(rt.make_request({i, 8, 7, 6}, o, false, others.back()));
  }
  CHECK(reply_of(rt, {1, 2, 3}, 60) == alone);
  for (const auto& other : others)
    while (other->next_piece())
      ;
}

TEST_CASE("memory comes and goes with the budget") {
  auto config = host_config(tensor_type::q4_0);
  config.kv_tokens = 512; // as many with either budget
  const auto smallest = prepared_model::open(on_gpu(config, 1)).report.total_bytes;
  const auto before = cuda::list_gpus().gpus.front().free_bytes;
  {
    runtime_access::parts rt(on_gpu(config), nullptr);
    const auto text = reply_of(rt, {1, 2, 3}, 10);
    rt.set_budget(smallest, "cuda:0");
    CHECK(reply_of(rt, {1, 2, 3}, 10) == text);
    CHECK(rt.ledger->usage("cuda:0").in_use <= smallest);
  }
  const auto after = cuda::list_gpus().gpus.front().free_bytes;
  CHECK(after + (std::size_t{64} << 20) >= before); // the driver keeps some for itself
}

int testing::before_tests(int count, char** arguments) {
  // ctest asks for the list of tests at build time, and needs no GPU for that.
  for (int i = 1; i < count; ++i)
    if (std::string_view(arguments[i]).starts_with("--list"))
      return 0;
  const auto list = cuda::list_gpus();
  if (!list.gpus.empty())
    return 0;
  fmt::print("skipped: {}\n", list.none_because);
  return 77;
}
