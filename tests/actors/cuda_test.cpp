// The cast on a CUDA device, whose GPU is the processor: what goes through the seam, and what comes back.
#include "kernels/cuda/gpus.hpp"
#include "tests/support/emulated_runtime.hpp"
#include "tests/support/faulty_reader.hpp"

#include <catch2/catch.hpp>
#include <filesystem>

using namespace tropilla;
using testing::cuda_config;
using testing::difference;
using testing::emulated_gpu;
using testing::gpu_script;
using testing::logits_of;
using testing::on_emulated;
using testing::prompt;
using testing::reply_of;
using testing::require_all_given_back;

TEST_CASE("CUDA: logits are the host's, in memory, streamed, and for a part of the layers of one or two GPUs") {
  const auto host_config = testing::tiny_config(2, 96);
  runtime_impl host(host_config, nullptr);
  const auto wanted = logits_of(host, prompt);
  const auto script = std::make_shared<gpu_script>();
  const auto smallest = [&] {
    auto c = cuda_config(1);
    return prepared_model::open(c, on_emulated(script)).report.total_bytes;
  }();
  auto half = cuda_config(std::size_t{64} << 20);
  half.devices.push_back({"host:0", std::size_t{64} << 20});
  auto two = half;
  two.devices.back().name = "cuda:1";
  auto cached = cuda_config();
  cached.packed_cache = testing::scratch() / "packed-cuda";
  for (const auto& config : {cuda_config(), cuda_config(smallest), half, two, cached, cached}) {
    script->copies_between_gpus = 0;
    {
      runtime_impl rt(config, nullptr, on_emulated(script));
      INFO(rt.report.residency << ", " << config.devices.size() << " devices");
      CHECK(difference(logits_of(rt, prompt), wanted) < 0.02); // int8 rounds otherwise as soon as a last bit differs
      CHECK(rt.arbiter->usage("cuda:0").high_water <= rt.arbiter->usage("cuda:0").budget);
    }
    CHECK((script->copies_between_gpus > 0) == (config.devices.back().name == "cuda:1"));
    require_all_given_back(*script);
  }
}

TEST_CASE("CUDA: a reply is the same whatever is streamed and computed beside it") {
  const auto script = std::make_shared<gpu_script>();
  runtime_impl rt(cuda_config(), nullptr, on_emulated(script));
  const auto alone = reply_of(rt, {1, 2, 3}, 4);
  CHECK(alone.size() == 4);
  const auto both = [&] {
    const auto other = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = 5;
    o.ignore_eos = true;
    (void)rt.submit(rt.make_request({9, 8, 7, 6}, o, false, other));
    CHECK(reply_of(rt, {1, 2, 3}, 4) == alone);
    while (other->next_piece())
      ;
  };
  for (std::int64_t before = 0; before != script->maps;) { // until the pages are there that all this takes
    before = script->maps;
    both();
  }
  const auto maps = script->maps.load(), host_blocks = script->host_blocks.load(), streams = script->streams.load();
  const auto session = testing::scratch() / "cuda.session";
  both();
  CHECK(script->maps == maps); // once warm, nothing is allocated
  CHECK(script->host_blocks == host_blocks);
  CHECK(script->streams == streams);
  // Keys and values go to a file and come back.
  std::vector<token_id> tokens{1, 2, 3};
  tokens.insert(tokens.end(), alone.begin(), alone.end());
  const auto saved = rt.save_session(session, tokens, "note");
  CHECK(saved > 0);
  std::string note;
  CHECK(rt.load_session(session, &note).size() == saved);
  CHECK(note == "note");
  CHECK(reply_of(rt, {1, 2, 3}, 4) == alone);
}

TEST_CASE("CUDA: steps that come again are launched as one graph, and where there are no graphs kernel by kernel") {
  const auto script = std::make_shared<gpu_script>();
  std::vector<token_id> wanted;
  {
    runtime_impl rt(cuda_config(), nullptr, on_emulated(script));
    wanted = reply_of(rt, {1, 2, 3}, 6);
    CHECK(script->graphs == 1); // the tables of so short a context keep their size
    CHECK(script->launched_graphs >= 3);
    CHECK(reply_of(rt, {1, 2, 3}, 6) == wanted);
    CHECK(script->graphs <= 2);
  }
  require_all_given_back(*script);
  script->refuse_graphs = true;
  script->launched_graphs = 0;
  runtime_impl rt(cuda_config(), nullptr, on_emulated(script));
  CHECK(reply_of(rt, {1, 2, 3}, 6) == wanted);
  CHECK(script->launched_graphs == 0);
}

TEST_CASE("CUDA: a reply is the same whether all logits are copied or the top-k ones") {
  const auto script = std::make_shared<gpu_script>();
  runtime_impl rt(cuda_config(), nullptr, on_emulated(script));
  generation_options o;
  o.max_tokens = 4;
  o.ignore_eos = true;
  (void)reply_of(rt, prompt, 1); // loads the weights, and from now on the prompt is known
  script->copied = 0;
  for (const bool warm : {false, true}) {
    o.sampling.temperature = warm ? 1.5 : 0;
    o.sampling.top_k = warm ? 7 : 0;
    o.sampling.seed = 5;
    o.logprobs = 0;
    const auto some = reply_of(rt, prompt, o);
    const auto copied = script->copied.exchange(0);
    o.logprobs = 1; // of all
    CHECK(reply_of(rt, prompt, o) == some);
    CHECK(copied < script->copied.exchange(0));
  }
}

TEST_CASE("CUDA: streamed weights that are pinned are read once") {
  const auto script = std::make_shared<gpu_script>();
  testing::fault_script reads; // none fails
  auto hooks = on_emulated(script);
  hooks.make_reader = [&reads](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), reads);
  };
  auto config = cuda_config(1);
  config.devices.front().bytes = prepared_model::open(config, hooks).report.total_bytes;
  const auto reads_of_second_reply = [&](std::size_t pinned, std::vector<token_id>& text) {
    config.pinned_bytes = pinned;
    std::size_t read = 0;
    {
      runtime_impl rt(config, nullptr, hooks);
      CHECK(rt.report.residency.find('S') != std::string::npos);
      text = reply_of(rt, {1, 2, 3}, 2);
      const std::size_t before = reads.reads();
      CHECK(reply_of(rt, {1, 2, 3}, 2) == text);
      read = reads.reads() - before;
    }
    require_all_given_back(*script);
    return read;
  };
  std::vector<token_id> without, some, all;
  const std::size_t many = reads_of_second_reply(0, without);
  const std::size_t layer = prepared_model::open(config, hooks).shards.front().placement->block_bytes(1);
  const std::size_t fewer = reads_of_second_reply(layer, some);
  const std::size_t rows = reads_of_second_reply(std::size_t{64} << 20, all); // of the embedding
  CHECK(some == without);
  CHECK(all == without);
  CHECK(fewer < many);
  CHECK(rows < fewer);
  config.devices = {{"host:0", 0}};
  CHECK_THROWS_WITH(runtime_impl(config, nullptr, hooks), Catch::Contains("no GPU is asked for"));
}

TEST_CASE("CUDA: memory comes and goes with the budget") {
  const auto script = std::make_shared<gpu_script>();
  auto config = cuda_config(1);
  config.kv_tokens = 192; // as many with either budget
  const auto smallest = prepared_model::open(config, on_emulated(script)).report.total_bytes;
  config.devices.front().bytes = 0;
  {
    runtime_impl rt(config, nullptr, on_emulated(script));
    const auto whole = rt.report.total_bytes;
    const auto text = reply_of(rt, {1, 2, 3}, 2);
    const auto before = script->mapped.load();
    rt.set_budget(smallest, "cuda:0");
    CHECK(reply_of(rt, {1, 2, 3}, 2) == text);
    CHECK(rt.arbiter->usage("cuda:0").in_use <= smallest);
    const auto granule = static_cast<std::int64_t>(emulated_gpu(script).granule());
    CHECK(script->mapped < before);
    // What is mapped is what is in use, and the granules that leases begin and end in.
    CHECK(script->mapped * granule <= static_cast<std::int64_t>(smallest) + 40 * granule);
    rt.set_budget(whole, "cuda:0");
    CHECK(reply_of(rt, {1, 2, 3}, 2) == text);
  }
  require_all_given_back(*script);
}

#if !defined(__SANITIZE_ADDRESS__) // it takes five times as long then, and moves nothing that others don't
TEST_CASE("CUDA: a prompt that outgrows the pages beside all weights has some of them streamed, with the same text") {
  const auto script = std::make_shared<gpu_script>();
  auto config = cuda_config();
  config.context = config.kv_tokens = 288;
  config.sequences = 1;
  config.max_batch_tokens = 96;
  std::vector<token_id> long_prompt;
  for (std::size_t i = 0; i < 264; ++i)
    long_prompt.push_back(static_cast<token_id>(1 + i * 7 % 900));
  std::vector<token_id> text;
  {
    runtime_impl rt(config, nullptr, on_emulated(script));
    text = reply_of(rt, long_prompt, 2);
    const auto& plan = rt.shards.front()->placement->plan;
    config.devices.front().bytes = plan.total - plan.by_purpose[static_cast<std::size_t>(purpose::kv)] / 10;
  }
  {
    runtime_impl rt(config, nullptr, on_emulated(script));
    CHECK(rt.report.ring_slots == 0);
    CHECK(reply_of(rt, long_prompt, 2) == text);
    const auto moves = rt.load().moves;
    REQUIRE_FALSE(moves.empty());
    CHECK(moves.back().streamed_bytes > 0);
    CHECK(rt.arbiter->usage("cuda:0").high_water <= config.devices.front().bytes);
  }
  require_all_given_back(*script);
}
#endif

TEST_CASE("CUDA: pages that leave a GPU are kept in page-locked memory and on the disk, and come back") {
  const auto script = std::make_shared<gpu_script>();
  auto config = cuda_config();
  config.context = config.kv_tokens = 96; // the pages of one sequence
  config.sequences = 1;
  config.max_batch_tokens = 48;
  const auto prompt_of = [](token_id first) {
    std::vector<token_id> ids;
    for (token_id i = 0; i < 70; ++i)
      ids.push_back(first + i * 7 % 400);
    return ids;
  };
  config.kv_host_bytes = GENERATE(std::size_t{0}, std::size_t{16} << 20);
  config.kv_disk_bytes = config.kv_host_bytes > 0 ? 0 : std::size_t{16} << 20;
  config.kv_folder = testing::scratch() / "kv of a GPU";
  std::filesystem::remove_all(config.kv_folder);
  {
    runtime_impl rt(config, nullptr, on_emulated(script));
    const auto text = reply_of(rt, prompt_of(1), 2);
    const auto other = reply_of(rt, prompt_of(500), 2);
    CHECK(reply_of(rt, prompt_of(1), 2) == text);
    CHECK(reply_of(rt, prompt_of(500), 2) == other);
    CHECK(rt.load().store.saved == 4);
    CHECK(rt.load().store.restored == 4);
    CHECK(rt.arbiter->usage("cuda:0").high_water <= rt.report.total_bytes);
  }
  require_all_given_back(*script);
}

TEST_CASE("CUDA: impossible devices are refused before anything is read") {
  const auto script = std::make_shared<gpu_script>();
  auto twice = cuda_config(1000);
  twice.devices.push_back({"cuda:0", 1000});
  CHECK_THROWS_WITH(runtime_impl(twice, nullptr, on_emulated(script)), Catch::Contains("named twice"));
  auto precise = cuda_config();
  precise.precise = true;
  CHECK_THROWS_WITH(runtime_impl(precise, nullptr, on_emulated(script)), Catch::Contains("int8"));
  auto wrong = cuda_config();
  wrong.devices.front().name = "cuda:x";
  CHECK_THROWS_WITH(runtime_impl(wrong, nullptr, on_emulated(script)), Catch::Contains("cuda:0, cuda:1"));
  if (cuda::list_gpus().gpus.empty())
    CHECK_THROWS_WITH(runtime(cuda_config()), Catch::Contains("cuda:0 can't be used"));
  require_all_given_back(*script);
}
