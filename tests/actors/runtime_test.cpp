// The public interface over the whole cast, with a tiny model.
#include "tropilla/tropilla.hpp"

#include "src/model/llama_config.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <thread>

using namespace tropilla;
using testing::ids_of;

namespace {

/// A runtime whose plan leaves pages for one sequence alone, so that its sizes are those of weights.
runtime_config tiny_single() {
  auto c = testing::tiny_config();
  c.sequences = 1;
  return c;
}

generation_options options(std::size_t tokens, double temperature = 0, std::uint64_t seed = 0) {
  generation_options o;
  o.max_tokens = tokens;
  o.sampling.temperature = temperature;
  o.sampling.seed = seed;
  o.ignore_eos = true;
  return o;
}

/// Of a reply that neither its length nor the context ends.
generation_options endless() {
  auto o = options(std::numeric_limits<std::size_t>::max());
  o.context_shift = true;
  return o;
}

std::size_t entries(const char* folder) {
  const std::filesystem::directory_iterator it(folder);
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

errc code_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const error& e) {
    CHECK(std::string_view(e.what()).size() > 20);
    return e.code();
  }
  return {};
}

} // namespace

TEST_CASE("a reply is a range of pieces with statistics at its end") {
  runtime rt(testing::tiny_config());
  auto g = rt.generate("hello there", options(12));
  std::size_t pieces = 0;
  for (const auto& p : g)
    pieces += p.id >= 0;
  CHECK(pieces == 12);
  const auto& s = g.statistics();
  CHECK(s.generated_tokens == 12);
  CHECK(s.prompt_tokens == rt.tokenize("hello there", true).size());
  CHECK(s.finish == finish_reason::length);
  CHECK(s.first_token_seconds > 0);
  CHECK(s.decode_seconds >= s.compute_seconds);
  CHECK(rt.threads() == 2);
  CHECK(rt.model().layers > 0);
}

TEST_CASE("the same seed gives the same tokens whatever the number of threads, another seed others") {
  const auto prompt = std::vector<token_id>{5, 9, 77, 31, 8, 100};
  std::set<std::vector<token_id>> replies;
  for (const std::size_t threads : {1, 2, 3}) {
    runtime rt(testing::tiny_config(threads));
    replies.insert(ids_of(rt.generate(prompt, options(40, 0.9, 11))));
  }
  CHECK(replies.size() == 1);
  runtime rt(testing::tiny_config());
  CHECK(ids_of(rt.generate(prompt, options(40, 0.9, 12))) != *replies.begin());
}

TEST_CASE("a second prompt that begins alike reuses the cache and gives what a fresh runtime gives") {
  const std::vector<token_id> first{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::vector<token_id> second = first;
  second.insert(second.end(), {40, 41, 42});
  runtime fresh(testing::tiny_config());
  const auto expected = ids_of(fresh.generate(second, options(10)));
  runtime rt(testing::tiny_config());
  (void)ids_of(rt.generate(first, options(3)));
  auto g = rt.generate(second, options(10));
  std::vector<token_id> got;
  for (const auto& p : g)
    got.push_back(p.id);
  CHECK(g.statistics().reused_tokens == first.size());
  got.erase(std::remove(got.begin(), got.end(), -1), got.end());
  CHECK(got == expected);
}

TEST_CASE("replies asked for at the same time from many threads all come, one after another") {
  runtime rt(testing::tiny_config());
  const std::vector<token_id> prompt{3, 1, 4, 1, 5};
  const auto expected = ids_of(rt.generate(prompt, options(8)));
  std::vector<std::vector<token_id>> got(6);
  std::vector<std::thread> threads;
  for (auto& reply : got)
    threads.emplace_back([&] { reply = ids_of(rt.generate(prompt, options(8))); });
  for (auto& t : threads)
    t.join();
  for (const auto& reply : got)
    CHECK(reply == expected);
}

TEST_CASE("what a plan says is what a run holds, and a byte less is refused with the numbers") {
  auto config = testing::tiny_config();
  const auto plan = runtime::plan(config);
  {
    runtime rt(config);
    rt.wait_until_loaded();
    (void)ids_of(rt.generate("x", options(4)));
    const auto memory = rt.memory().front();
    CHECK(memory.peak_bytes <= memory.budget_bytes);
    CHECK(testing::peak_without_pages(memory) == testing::planned_without_pages(plan));
  }
  config.budget_bytes = plan.total_bytes;
  CHECK(ids_of(runtime(config).generate("x", options(4))).size() == 4);
  config.budget_bytes = 1;
  const auto smallest = runtime::plan(config).total_bytes; // two slots, and all layers streamed
  CHECK(smallest < plan.total_bytes);
  config.budget_bytes = smallest - 1;
  CHECK(code_of([&] { runtime rt(config); }) == errc::over_budget);
}

TEST_CASE("a cancelled or dropped reply frees the way for the next") {
  runtime rt(testing::tiny_config());
  auto g = rt.generate("hello", endless());
  REQUIRE(g.next());
  g.cancel();
  while (g.next()) {
  }
  CHECK(g.statistics().finish == finish_reason::cancelled);
  {
    auto dropped = rt.generate("hello", endless());
    REQUIRE(dropped.next());
  }
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (rt.load().active > 0)
    REQUIRE(std::chrono::steady_clock::now() < limit);
  CHECK(ids_of(rt.generate("hello", options(3))).size() == 3);
}

TEST_CASE("a reply outlives its runtime as far as it came") {
  std::optional<generation> g;
  {
    runtime rt(testing::tiny_config());
    g.emplace(rt.generate("hello", endless()));
    REQUIRE(g->next());
  }
  CHECK(code_of([&] {
          while (g->next()) {
          }
        }) == errc::cancelled);
}

TEST_CASE("requests that can't run are errors with a code") {
  runtime rt(testing::tiny_config());
  CHECK(code_of([&] { (void)rt.generate(std::vector<token_id>{}); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.generate(std::vector<token_id>{1, 1 << 30}); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.generate(std::vector<token_id>(300, 1)); }) == errc::context_full);
  CHECK(code_of([&] { (void)rt.generate("x", options(1, -2)); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.generate("x", options(0)); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.chat({}); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.save_session("", {}); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt.load_session(""); }) == errc::invalid_argument);
  CHECK(ids_of(rt.generate("still alive", options(2))).size() == 2);
}

TEST_CASE("keys and values in fewer bits take fewer bytes and give whole replies, alike however they are computed") {
  const std::vector<token_id> prompt{5, 9, 77, 31, 8, 100};
  const auto pages_of = [](const plan_report& plan) {
    std::size_t bytes = 0;
    for (const auto& line : plan.lines)
      bytes += line.purpose == "KV pages" ? line.bytes : 0;
    return bytes;
  };
  const auto halves = pages_of(runtime::plan(testing::tiny_config()));
  for (const char* type : {"", "f16", "bf16", "q8_0"}) {
    INFO(type);
    std::set<std::vector<token_id>> replies;
    for (const std::size_t threads : {1, 3}) {
      auto c = testing::tiny_config(threads);
      c.kv_type = type;
      c.max_batch_tokens = threads;
      runtime rt(std::move(c));
      CHECK(rt.plan().kv_type == (*type ? type : "f16"));
      CHECK((pages_of(rt.plan()) < halves) == (rt.plan().kv_type == "q8_0"));
      auto g = rt.generate(prompt, options(40));
      std::vector<token_id> ids;
      for (const auto& p : g)
        if (p.id >= 0)
          ids.push_back(p.id);
      CHECK(g.statistics().finish == finish_reason::length);
      CHECK(ids.size() == 40);
      for (const auto id : ids)
        CHECK(static_cast<std::size_t>(id) < rt.model().vocabulary);
      replies.insert(ids);
      std::size_t scored = 0;
      rt.score(prompt, [&](std::size_t, std::span<const float> logits) {
        ++scored;
        CHECK(logits.size() == rt.model().vocabulary);
        CHECK(std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); }));
      });
      CHECK(scored == prompt.size());
    }
    CHECK(replies.size() == 1);
  }
}

TEST_CASE("configurations that can't run are errors with a code") {
  const auto open = [](auto change) {
    return code_of([&] {
      auto c = testing::tiny_config();
      change(c);
      runtime rt(std::move(c));
    });
  };
  CHECK(open([](auto& c) { c.model = "/nonexistent.gguf"; }) == errc::io_error);
  CHECK(open([](auto& c) { c.model.clear(); }) == errc::invalid_argument);
  CHECK(open([](auto& c) { c.context = 1; }) == errc::invalid_argument);
  CHECK(open([](auto& c) { c.context = std::size_t{1} << 60; }) == errc::invalid_argument);
  CHECK(open([](auto& c) { c.isa = "mmx"; }) == errc::invalid_argument);
  CHECK(open([](auto& c) { c.kv_type = "q4_0"; }) == errc::invalid_argument);
  CHECK(open([](auto& c) { c.chat_template = "no-such"; }) != errc{});
  CHECK(open([](auto& c) { c.trace = "/nonexistent-folder/trace.json"; }) == errc::io_error);
}

TEST_CASE("damaged weights fail the reply and waiting for them, and nothing hangs") {
  const auto path = testing::scratch() / "damaged.gguf";
  std::filesystem::copy_file(testing::tiny_model(), path, std::filesystem::copy_options::overwrite_existing);
  const auto config = llama_config::read(gguf_file::open(path));
  {
    std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(config.layer_sources.back().attn_v.offset));
    out.write("\xff\xff", 2);
  }
  auto c = testing::tiny_config();
  c.model = path;
  runtime rt(c);
  CHECK(code_of([&] { rt.wait_until_loaded(); }) == errc::malformed_file);
  CHECK(code_of([&] { (void)ids_of(rt.generate("x", options(2))); }) == errc::malformed_file);
}

TEST_CASE("threads and descriptors go back with a runtime") {
  { runtime warm(testing::tiny_config()); } // what libraries keep for good
  const auto threads = entries("/proc/self/task");
  const auto files = entries("/proc/self/fd");
  for (int i = 0; i < 5; ++i) {
    runtime rt(testing::tiny_config());
    if (i % 2)
      (void)ids_of(rt.generate("x", options(2)));
  }
  // The kernel lists a thread for a moment after it was joined.
  for (int i = 0; i < 1000 && entries("/proc/self/task") > threads; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK(entries("/proc/self/task") <= threads);
  CHECK(entries("/proc/self/fd") == files);
}

TEST_CASE("scoring gives every position's logits, the same as one token at a time") {
  auto c = testing::tiny_config();
  runtime one(c);
  c.logit_rows = 7;
  runtime many(c);
  const std::vector<token_id> ids{9, 8, 7, 6, 5, 4, 3, 2, 1, 9, 8, 7, 6, 5, 4, 3};
  std::vector<float> a, b;
  one.score(ids, [&](std::size_t, std::span<const float> l) { a.insert(a.end(), l.begin(), l.end()); });
  std::size_t expected = 0;
  many.score(ids, [&](std::size_t position, std::span<const float> l) {
    CHECK(position == expected++);
    b.insert(b.end(), l.begin(), l.end());
  });
  CHECK(a.size() == ids.size() * one.model().vocabulary);
  CHECK(a == b);
}

TEST_CASE("progress reaches the whole file's weights") {
  auto c = testing::tiny_config();
  load_progress last;
  c.on_progress = [&](const load_progress& p) {
    CHECK(p.bytes_done >= last.bytes_done);
    last = p;
  };
  {
    runtime rt(c);
    rt.wait_until_loaded();
  }
  CHECK(last.bytes_total > 0);
  CHECK(last.bytes_done == last.bytes_total);
}

TEST_CASE("a trace names the cast and its streams") {
  auto c = testing::tiny_config();
  c.trace = testing::scratch() / "run-trace.json";
  {
    runtime rt(c);
    (void)ids_of(rt.generate("x", options(3)));
  }
  const auto json = nlohmann::json::parse(std::ifstream(c.trace));
  std::set<std::string> rows, counted;
  std::int64_t max_weights = 0;
  for (const auto& e : json.at("traceEvents"))
    if (e.at("ph") == "M" && e.at("name") == "thread_name") {
      rows.insert(e.at("args").at("name").get<std::string>());
    } else if (e.at("ph") == "C") {
      counted.insert(e.at("name").get<std::string>());
      max_weights = std::max(max_weights, e.at("args").at("weights").get<std::int64_t>());
    }
  for (const char* row :
       {"actor scheduler", "actor compute", "actor loader", "actor sampler", "actor memory_manager host:0",
        "stream host:0 compute", "stream host:0 read", "stream host:0 pack 0"})
    CHECK(rows.count(row) == 1);
  CHECK(counted == std::set<std::string>{"memory host:0"});
  CHECK(max_weights > 0);
}

TEST_CASE("a trace has every grant and return, also of leases that end while the weight pipeline is replaced") {
  auto c = tiny_single();
  c.model = testing::tiny_model(tensor_type::q4_0, true);
  c.trace = testing::scratch() / "memory-trace.json";
  const auto all = runtime::plan(c).total_bytes;
  c.budget_bytes = 1;
  const auto smallest = runtime::plan(c).total_bytes;
  c.budget_bytes = all;
  {
    runtime rt(c);
    for (const auto budget : {smallest, all, smallest}) {
      rt.set_budget(budget);
      (void)ids_of(rt.generate("x", options(3)));
    }
  }
  const auto json = nlohmann::json::parse(std::ifstream(c.trace));
  std::map<std::size_t, std::size_t> blocks; // offset and bytes of what is leased
  std::size_t returned = 0;
  for (const auto& e : json.at("traceEvents")) {
    if (!e.contains("args") || !e.at("args").contains("offset"))
      continue;
    const auto& a = e.at("args");
    const std::size_t offset = a.at("offset");
    if (a.contains("granted_bytes")) {
      const auto [block, is_new] = blocks.emplace(offset, a.at("granted_bytes"));
      REQUIRE(is_new);
      if (block != blocks.begin())
        REQUIRE(std::prev(block)->first + std::prev(block)->second <= offset);
      if (const auto next = std::next(block); next != blocks.end())
        REQUIRE(offset + block->second <= next->first);
    } else {
      REQUIRE(blocks.contains(offset));
      REQUIRE(blocks.at(offset) == a.at("returned_bytes"));
      blocks.erase(offset);
      ++returned;
    }
  }
  CHECK(returned > 0);
}

TEST_CASE("a model that is larger than its budget streams, and answers alike") {
  const bool tied = GENERATE(true, false);
  const bool cached = GENERATE(false, true);
  auto config = tiny_single();
  config.model = testing::tiny_model(tensor_type::q4_0, tied);
  config.max_batch_tokens = 7; // a long prompt takes several steps, of which the last alone needs the output
  if (cached)
    config.packed_cache = testing::scratch() / "packed";
  const auto reply = [](runtime& rt) {
    std::vector<token_id> ids;
    for (const auto& p : rt.generate(std::vector<token_id>{5, 6, 7, 8}, options(12)))
      ids.push_back(p.id);
    return ids;
  };
  const auto all = runtime::plan(config).total_bytes;
  config.budget_bytes = 1;
  config.io = "direct"; // takes the most: rows are read with what lies around them
  const auto smallest = runtime::plan(config).total_bytes;
  config.io = "";
  config.budget_bytes = 0;
  std::vector<token_id> expected, long_reply;
  std::vector<token_id> long_prompt(60);
  std::iota(long_prompt.begin(), long_prompt.end(), 1);
  {
    runtime rt(config);
    CHECK(rt.plan().residency == (tied ? "RRRRRR" : "RRRRRRR"));
    expected = reply(rt);
    long_reply = ids_of(rt.generate(long_prompt, options(5)));
  }
  bool looked_up = false;
  for (std::size_t budget = smallest; budget < all; budget += (all - smallest) / 5) {
    config.budget_bytes = budget;
    for (const char* io : {"", "direct", "buffered", "mmap"}) {
      if (!cached && *io != '\0')
        continue; // the ways of reading differ where packed weights are read
      config.io = io;
      runtime rt(config);
      INFO(rt.plan().residency << " " << io);
      CHECK(rt.plan().residency.find_first_of("SG") != std::string::npos);
      looked_up |= rt.plan().residency.front() == 'G';
      CHECK(rt.plan().total_bytes <= budget);
      CHECK(reply(rt) == expected);
      CHECK(reply(rt) == expected);                                      // the ring goes on where it stood
      CHECK(ids_of(rt.generate(long_prompt, options(5))) == long_reply); // steps without logits leave the head out
      rt.wait_until_loaded();
      CHECK(rt.memory().front().peak_bytes <= budget);
    }
  }
  CHECK(looked_up);
}

TEST_CASE("a budget that changes in the middle of a reply changes nothing in its text") {
  auto config = tiny_single();
  const bool cached = GENERATE(false, true);
  if (cached)
    config.packed_cache = testing::scratch() / "packed-budget";
  config.context = 512;
  const auto all = runtime::plan(config).total_bytes;
  config.budget_bytes = 1;
  const auto smallest = runtime::plan(config).total_bytes;
  config.budget_bytes = 0;
  const std::vector<token_id> prompt{5, 6, 7, 8};
  const auto expected = ids_of(runtime(config).generate(prompt, options(200)));

  runtime rt(config);
  auto g = rt.generate(prompt, options(200));
  std::vector<token_id> got;
  std::size_t n = 0;
  while (const auto p = g.next()) {
    if (p->id >= 0)
      got.push_back(p->id);
    if (++n % 20 != 0)
      continue;
    const std::size_t budget = n % 40 == 0 ? all : smallest + (all - smallest) * (n % 60) / 60;
    rt.set_budget(budget);
    CHECK(rt.memory().front().budget_bytes == budget);
    CHECK(rt.memory().front().in_use_bytes <= budget);
  }
  CHECK(got == expected);
  CHECK(code_of([&] { rt.set_budget(smallest - 1); }) == errc::over_budget);
  CHECK(code_of([&] { rt.set_budget(all, "host:7"); }) == errc::invalid_argument);
  rt.set_budget(smallest);
  CHECK(ids_of(rt.generate(prompt, options(200))) == expected);
  rt.wait_until_loaded();
  CHECK(rt.memory().front().in_use_bytes <= smallest);
}

TEST_CASE("replicas share the weights: the arbiter counts one copy, and each answers alike") {
  const bool streamed = GENERATE(false, true);
  auto config = tiny_single();
  const std::vector<token_id> prompt{5, 6, 7, 8};
  const auto all = runtime::plan(config).total_bytes;
  const auto expected = ids_of(runtime(config).generate(prompt, options(30)));
  config.budget_bytes = 1;
  const auto smallest = runtime::plan(config).total_bytes;
  config.budget_bytes = streamed ? smallest : all;
  CHECK(code_of([&] { (void)runtime(config).replicate(); }) == errc::over_budget);
  config.budget_bytes = 4 * all;
  std::optional<runtime> rt(config);
  if (streamed) {
    rt->set_budget(smallest + (all - smallest) / 2);
    CHECK(code_of([&] { (void)rt->replicate(); }) == errc::over_budget);
    rt->set_budget(4 * all);
  }
  rt->wait_until_loaded();
  const auto weights = [](const runtime& r) { return r.memory().front().purposes.front().in_use_bytes; };
  const auto before = weights(*rt);
  const auto in_use = rt->memory().front().in_use_bytes;
  CHECK(before > 0);

  std::vector<runtime> replicas;
  replicas.push_back(rt->replicate());
  replicas.push_back(rt->replicate(64));
  CHECK(weights(*rt) == before);
  CHECK(replicas.front().memory().front().in_use_bytes > in_use);
  std::vector<std::vector<token_id>> got(3);
  std::vector<std::thread> threads;
  threads.emplace_back([&] { got[0] = ids_of(rt->generate(prompt, options(30))); });
  for (std::size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] { got[i + 1] = ids_of(replicas[i].generate(prompt, options(30))); });
  for (auto& t : threads)
    t.join();
  for (const auto& reply : got)
    CHECK(reply == expected);
  CHECK(weights(*rt) == before);
  CHECK(code_of([&] { rt->set_budget(2 * all); }) == errc::invalid_argument);
  CHECK(code_of([&] { replicas.front().set_budget(2 * all); }) == errc::invalid_argument);
  CHECK(code_of([&] { (void)rt->replicate(1); }) == errc::invalid_argument);
  replicas.pop_back();
  {
    auto of_replica = replicas.front().replicate(64);
    CHECK(ids_of(of_replica.generate(prompt, options(30))) == expected);
    CHECK(weights(of_replica) == before);
  }
  rt.reset(); // the replicas that are left have all that they need
  CHECK(ids_of(replicas.front().generate(prompt, options(30))) == expected);
  CHECK(weights(replicas.front()) == before);
}

TEST_CASE("layers on several devices give the text of one, each within its budget") {
  const bool tied = GENERATE(true, false);
  const bool streamed = GENERATE(false, true);
  auto config = testing::tiny_config(1);
  config.model = testing::tiny_model(tensor_type::q4_0, tied);
  config.packed_cache = testing::scratch() / "packed-devices";
  config.max_batch_tokens = 7;
  std::vector<token_id> prompt(40);
  std::iota(prompt.begin(), prompt.end(), 1);
  const auto expected = ids_of(runtime(config).generate(prompt, options(20)));
  for (const std::size_t devices : {2, 3, 4}) {
    INFO(devices << " devices" << (tied ? ", tied" : ", untied") << (streamed ? ", streamed" : ""));
    config.devices.clear();
    for (std::size_t i = 0; i < devices; ++i)
      config.devices.push_back({"host:" + std::to_string(i), std::size_t{1} << 30});
    if (streamed) { // the least that works, on each
      for (auto& d : config.devices)
        d.bytes = 1;
      const auto plan = runtime::plan(config);
      for (auto& d : config.devices)
        d.bytes = testing::planned_bytes(plan, d.name);
    }
    runtime rt(config);
    CHECK(rt.threads() == devices);
    CHECK(std::count(rt.plan().residency.begin(), rt.plan().residency.end(), ' ') ==
          static_cast<std::ptrdiff_t>(devices - 1));
    CHECK(ids_of(rt.generate(prompt, options(20))) == expected);
    if (!streamed) {
      CHECK(code_of([&] { rt.set_budget(std::size_t{1} << 29); }) == errc::invalid_argument);
      CHECK(code_of([&] { rt.set_budget(1, "host:1"); }) == errc::over_budget);
      rt.set_budget(std::size_t{1} << 29, "host:1");
    }
    CHECK(ids_of(rt.generate(prompt, options(20))) == expected);
    rt.wait_until_loaded();
    const auto memory = rt.memory();
    REQUIRE(memory.size() == devices);
    for (std::size_t i = 0; i < devices; ++i) {
      CHECK(memory[i].device == config.devices[i].name);
      CHECK(memory[i].peak_bytes <= config.devices[i].bytes);
      CHECK(memory[i].in_use_bytes > 0);
    }
    if (!streamed) {
      auto replica = rt.replicate(128);
      CHECK(ids_of(replica.generate(prompt, options(20))) == expected);
    }
  }
  config.devices.resize(5, {"host:4", 1});
  CHECK(code_of([&] { runtime rt(config); }) == errc::invalid_argument); // four layers
  config.devices = {{"host:0", 1 << 30}, {"gpu:0", 1 << 30}};
  CHECK(code_of([&] { runtime rt(config); }) == errc::invalid_argument);
}
