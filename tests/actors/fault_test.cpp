// What happens when reads fail, members of the cast are killed and leases are refused: the same text, or an error that
// says why, and afterwards everything as it was.
#include "runtime/runtime_impl.hpp"
#include "tests/support/faulty_reader.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

using namespace tropilla;

namespace {

runtime_config streamed_config(bool cached, const char* name) {
  runtime_config c;
  c.model = testing::tiny_model();
  c.threads = 2;
  c.context = 256;
  c.budget_bytes = 1;
  c.io = "direct";
  c.budget_bytes = runtime::plan(c).total_bytes;
  c.io = "";
  if (cached)
    c.packed_cache = testing::scratch() / "packed-faults" / name;
  return c;
}

/// A runtime with its insides open.
struct open_runtime {
  explicit open_runtime(runtime_config config, runtime_hooks hooks = {})
      : impl(std::make_shared<runtime_impl>(std::move(config), nullptr, std::move(hooks))) {}

  std::shared_ptr<reply_channel> start(std::size_t tokens = 40) const {
    auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = tokens;
    o.ignore_eos = true;
    (void)impl->submit(impl->make_request({5, 6, 7, 8}, o, false, channel));
    return channel;
  }
  [[nodiscard]] std::vector<token_id> reply(std::size_t tokens = 40) const { return testing::ids_of(*start(tokens)); }
  /// All groups that stay are there, and so is the ring: the level that the arbiter has to return to, but for KV pages.
  [[nodiscard]] std::size_t level() const {
    (void)cast::ask_role<cast::weights_resident>(*impl->system, *impl->shards.front()->compute, cast::await_weights{});
    const auto usage = impl->arbiter->usage("host:0");
    return usage.in_use - usage.by_purpose[static_cast<std::size_t>(purpose::kv)];
  }

  std::shared_ptr<runtime_impl> impl;
};

runtime_hooks spoiled(testing::fault_script& script) {
  runtime_hooks hooks;
  hooks.make_reader = [&script](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), script);
  };
  return hooks;
}

std::size_t descriptors() {
  const std::filesystem::directory_iterator it("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

} // namespace

TEST_CASE("who brings weights may be killed in the middle of a reply, which goes on with the same text") {
  const bool streamed = GENERATE(true, false);
  auto config = streamed_config(true, "killed");
  if (!streamed)
    config.budget_bytes = 0;
  const auto expected = open_runtime(config).reply();
  std::mt19937 random(4);
  for (int round = 0; round < 16; ++round) {
    INFO("round " << round);
    open_runtime rt(config);
    const auto level = round % 2 ? rt.level() : 0; // or in the middle of loading
    const auto channel = rt.start();
    std::vector<token_id> got;
    for (std::size_t n = random() % 30; got.size() < n;)
      got.push_back(channel->next_piece()->id);
    const auto pipeline = rt.impl->shards.front()->pipeline->get();
    const caf::actor members[] = {caf::actor_cast<caf::actor>(pipeline.memory_manager),
                                  caf::actor_cast<caf::actor>(pipeline.loader),
                                  caf::actor_cast<caf::actor>(pipeline.prefetcher)};
    caf::anon_send_exit(members[random() % 3], caf::exit_reason::kill);
    if (random() % 3 == 0)
      caf::anon_send_exit(members[random() % 3], caf::exit_reason::kill);
    const auto left = testing::ids_of(*channel);
    got.insert(got.end(), left.begin(), left.end());
    CHECK(got == expected);
    CHECK(rt.reply() == expected);
    if (level > 0)
      CHECK(rt.level() == level);
  }
}

TEST_CASE("those who bring weights are not replaced for ever") {
  open_runtime rt(streamed_config(false, ""));
  caf::scoped_actor self(*rt.impl->system);
  cast::cast_health health;
  for (int i = 0; i < 1000 && health.down.empty(); ++i) {
    const auto loader = rt.impl->shards.front()->pipeline->get().loader;
    caf::anon_send_exit(loader, caf::exit_reason::kill);
    self->wait_for(loader);
    health =
        cast::ask_role<cast::cast_health>(*rt.impl->system, *rt.impl->shards.front()->supervisor, cast::query_health{});
    std::this_thread::yield();
  }
  REQUIRE_FALSE(health.down.empty());
  CHECK_THROWS_AS(rt.reply(), error);
}

TEST_CASE("a read that fails or ends early fails the reply with the reason, and the next one succeeds") {
  const auto fault = GENERATE(testing::read_fault::short_read, testing::read_fault::io_failure);
  const bool cached = GENERATE(true, false);
  const auto config = streamed_config(cached, "reads");
  const auto expected = open_runtime(config).reply();
  std::size_t failed = 0;
  for (const std::size_t read : {0, 5, 14, 16, 40}) {
    INFO("read " << read);
    testing::fault_script script;
    script.at(read, fault);
    open_runtime rt(config, spoiled(script));
    std::string failure;
    std::vector<token_id> got;
    try {
      got = rt.reply();
    } catch (const error& e) {
      CHECK(e.code() == errc::io_error);
      failure = e.what();
    }
    if (failure.empty()) // it hit what was read ahead for nobody, or a group that was read again
      CHECK(got == expected);
    else
      CHECK_THAT(failure, Catch::Contains("can't read"));
    failed += !failure.empty();
    const auto second = rt.reply();
    CHECK(second == expected);
    const auto level = rt.level();
    const auto third = rt.reply();
    CHECK(third == expected);
    CHECK(rt.level() == level);
    CHECK(level <= config.budget_bytes);
  }
  CHECK((cached || failed > 0)); // packed weights that can't be read come from the model's files
}

TEST_CASE("reads of packed weights that fail or end early cost a notice, and the replies go on with the same text") {
  const auto fault = GENERATE(testing::read_fault::short_read, testing::read_fault::io_failure);
  auto config = streamed_config(true, "packed-reads");
  const auto expected = open_runtime(config).reply();
  std::vector<std::string> notices;
  std::mutex mutex;
  config.on_notice = [&](std::string_view sentence) {
    const std::lock_guard lock(mutex);
    notices.emplace_back(sentence);
  };
  const auto run = [&](const std::vector<std::size_t>& reads) {
    testing::fault_script script;
    for (const auto read : reads)
      script.at(read, fault);
    runtime_hooks hooks;
    hooks.make_reader = [&](std::span<const std::filesystem::path> files,
                            const reader_options& options) -> std::unique_ptr<file_reader> {
      auto reader = make_file_reader(files, options);
      if (files.front().parent_path() != config.packed_cache)
        return reader;
      return std::make_unique<testing::faulty_reader>(std::move(reader), script);
    };
    const open_runtime rt(config, hooks);
    const auto first = rt.reply();
    const auto second = rt.reply();
    CHECK(first == expected);
    CHECK(second == expected);
    CHECK(rt.level() <= config.budget_bytes);
    return script.reads();
  };
  const auto reads = run({});
  REQUIRE(reads > 100);
  CHECK(notices.empty());
  for (const std::size_t read : {std::size_t{0}, std::size_t{5}, std::size_t{40}, reads / 2}) {
    INFO("read " << read);
    notices.clear();
    run({read});
    CHECK(notices.size() == 1);
  }
  notices.clear();
  std::vector<std::size_t> all(reads + 100);
  std::iota(all.begin(), all.end(), std::size_t{0});
  run(all); // damaged again where it was mended: it is given up
  CHECK(notices.size() == 2);
  CHECK(packed_cache::list(config.packed_cache).empty());
}

TEST_CASE("a read that hangs holds its reply up, and nothing else") {
  const auto config = streamed_config(true, "hangs");
  const auto expected = open_runtime(config).reply();
  testing::fault_script script;
  script.at(30, testing::read_fault::hang);
  open_runtime rt(config, spoiled(script));
  const auto channel = rt.start();
  script.wait_until_hanging();
  CHECK(rt.impl->memory().front().in_use_bytes <= config.budget_bytes);
  script.release();
  CHECK(testing::ids_of(*channel) == expected);
}

TEST_CASE("a runtime closes while a read hangs as soon as that returns") {
  testing::fault_script script;
  script.at(20, testing::read_fault::hang);
  auto rt = std::make_unique<open_runtime>(streamed_config(false, ""), spoiled(script));
  const auto channel = rt->start();
  script.wait_until_hanging();
  std::thread closing([&] { rt->impl->shut_down(); });
  script.release();
  closing.join();
  CHECK_THROWS_AS(testing::ids_of(*channel), error);
}

TEST_CASE("whichever acquisition is refused, the error says so and nothing is lost") {
  const bool streamed = GENERATE(true, false);
  auto config = streamed_config(true, "refused");
  if (!streamed)
    config.budget_bytes = 0;
  const auto expected = open_runtime(config).reply(6);
  const auto files = descriptors();
  std::size_t refused = 0;
  std::uint64_t taken = 200;
  for (std::uint64_t n = 1; n <= 2 * taken; ++n) { // twice: acquisitions that are refused take nothing
    INFO("acquisition " << n);
    runtime_hooks hooks;
    hooks.refuse_acquisition = n;
    std::shared_ptr<memory_arbiter> arbiter;
    try {
      const open_runtime rt(config, hooks);
      arbiter = rt.impl->arbiter;
      const auto got = rt.reply(6);
      CHECK(got == expected);
      taken = arbiter->usage("host:0").pool.allocations;
    } catch (const error& e) {
      CHECK(e.code() == errc::over_budget);
      ++refused;
      if (arbiter)
        CHECK(arbiter->usage("host:0").in_use == 0);
    }
  }
  CHECK(refused >= 3); // what the runtime holds itself; what others ask for they may get at a second try
  CHECK(descriptors() <= files);
}

TEST_CASE("a model that is replaced while it streams goes on being read as it was, one that is cut short is an error") {
  const auto path = testing::scratch() / "replaced.gguf";
  std::filesystem::copy_file(testing::tiny_model(), path, std::filesystem::copy_options::overwrite_existing);
  auto config = streamed_config(false, "");
  config.model = path;
  const auto expected = open_runtime(config).reply();

  open_runtime rt(config);
  auto channel = rt.start();
  REQUIRE(channel->next_piece());
  const auto other = testing::scratch() / "other.gguf";
  std::filesystem::copy_file(testing::tiny_model(tensor_type::q8_0), other);
  std::filesystem::rename(other, path);
  auto got = testing::ids_of(*channel);
  CHECK(std::equal(got.begin(), got.end(), expected.begin() + 1, expected.end()));

  std::filesystem::copy_file(testing::tiny_model(), path, std::filesystem::copy_options::overwrite_existing);
  open_runtime cut(config);
  channel = cut.start(200);
  REQUIRE(channel->next_piece());
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 4);
  try {
    (void)testing::ids_of(*channel);
    FAIL("it read what is not there");
  } catch (const error& e) {
    CHECK(e.code() == errc::io_error);
    CHECK_THAT(e.what(), Catch::Contains("replaced.gguf"));
  }
  CHECK_THROWS_AS(cut.reply(), error); // and again, without hanging
}

TEST_CASE("runtimes that pack the same model at once leave one entry and answer alike") {
  auto config = streamed_config(true, "at-once");
  std::filesystem::remove_all(config.packed_cache);
  const auto expected = open_runtime(streamed_config(false, "")).reply();
  std::vector<std::vector<token_id>> got(4);
  std::vector<std::thread> threads;
  for (auto& reply : got)
    threads.emplace_back([&] { reply = open_runtime(config).reply(); });
  for (auto& t : threads)
    t.join();
  for (const auto& reply : got)
    CHECK(reply == expected);
  const auto entries = packed_cache::list(config.packed_cache);
  REQUIRE(entries.size() == 1);
  CHECK(entries.front().what == packed_entry::state::complete);
}

TEST_CASE("a cache that can't be written costs a notice and nothing else") {
  auto config = streamed_config(false, "");
  const auto expected = open_runtime(config).reply();
  const auto blocked = testing::scratch() / "a-file";
  {
    std::FILE* f = std::fopen(blocked.c_str(), "w");
    std::fclose(f);
  }
  config.packed_cache = blocked / "packed";
  std::atomic<int> notices = 0;
  config.on_notice = [&](std::string_view sentence) {
    CHECK(sentence.find("not kept packed") != std::string_view::npos);
    ++notices;
  };
  CHECK(open_runtime(config).reply() == expected);
  CHECK(notices == 1);
}
