// Packed weights that are damaged before a run or under a reply: the same text, however they are read.
#include "src/io/packed_cache.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>
#include <unistd.h>

using namespace tropilla;
using testing::ids_of;

namespace {

generation_options options(std::size_t tokens) {
  generation_options o;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  return o;
}

const std::vector<token_id> prompt{5, 6, 7, 8};
constexpr std::size_t reply_tokens = 24;

/// A configuration with packed weights, the text that it gives, and the notices of its runs.
struct damaged_runs {
  damaged_runs(const char* name, std::size_t devices, bool streamed) {
    config = testing::tiny_config(1);
    config.sequences = 1;
    config.packed_cache = testing::scratch() / "packed-damage" / name;
    std::filesystem::remove_all(config.packed_cache);
    for (std::size_t i = 0; i < devices; ++i)
      config.devices.push_back({"host:" + std::to_string(i), streamed ? 1 : std::size_t{1} << 30});
    config.io = "direct"; // takes the most
    if (streamed)
      for (const auto plan = runtime::plan(config); auto& d : config.devices)
        d.bytes = testing::planned_bytes(plan, d.name);
    config.io = "";
    expected = ids_of(runtime(config).generate(prompt, options(reply_tokens)));
    for (const auto& e : packed_cache::list(config.packed_cache)) {
      REQUIRE(e.what == packed_entry::state::complete);
      const auto path = config.packed_cache / e.key;
      std::ifstream in(path, std::ios::binary);
      entries.emplace_back(path, std::string(std::istreambuf_iterator<char>(in), {}));
    }
    REQUIRE(entries.size() == devices);
    config.on_notice = [this](std::string_view sentence) {
      const std::lock_guard lock(mutex);
      notices.emplace_back(sentence);
    };
  }

  void restore() {
    for (const auto& [path, content] : entries)
      std::ofstream(path, std::ios::binary | std::ios::trunc).write(content.data(), std::ssize(content));
    notices.clear();
  }

  [[nodiscard]] bool all_are_sound() const {
    for (const auto& [path, _] : entries) {
      const auto file = packed_cache::open(config.packed_cache, *packed_key::parse(path.filename().string()));
      if (!file)
        return false;
      for (std::size_t i = 0; i < file->sections(); ++i)
        if (!file->verify(i).empty())
          return false;
    }
    return true;
  }

  /// In place, as a disk or a stray program does it: a bit, zeros, or an end that comes too soon.
  void damage(std::mt19937& random) const {
    const auto& [path, content] = entries[random() % entries.size()];
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
      return; // it was given up before
    const auto at = random() % content.size();
    switch (random() % 3) {
    case 0: {
      const char bit = static_cast<char>(content[at] ^ (1 << random() % 8));
      (void)!::pwrite(fd, &bit, 1, static_cast<off_t>(at));
      break;
    }
    case 1: {
      const std::string zeros(std::min<std::size_t>(content.size() - at, 1 + random() % 65536), '\0');
      (void)!::pwrite(fd, zeros.data(), zeros.size(), static_cast<off_t>(at));
      break;
    }
    default:
      (void)!::ftruncate(fd, static_cast<off_t>(at));
    }
    ::close(fd);
  }

  runtime_config config;
  std::vector<token_id> expected;
  std::vector<std::pair<std::filesystem::path, std::string>> entries;
  std::mutex mutex;
  std::vector<std::string> notices;
};

/// A reply during which `disturb` is called after so many tokens.
std::vector<token_id> disturbed_reply(runtime& rt, std::size_t after, const std::function<void()>& disturb) {
  auto reply = rt.generate(prompt, options(reply_tokens));
  std::vector<token_id> got;
  while (const auto p = reply.next()) {
    if (p->id < 0)
      continue;
    got.push_back(p->id);
    if (got.size() == after)
      disturb();
  }
  return got;
}

} // namespace

TEST_CASE("no text comes from damaged packed weights, whenever they are damaged and however they are read") {
  const std::size_t devices = GENERATE(1, 2);
  const bool streamed = GENERATE(true, false);
  damaged_runs runs("any", devices, streamed);
  std::mt19937 random(static_cast<unsigned>(devices * 2 + streamed));
  for (const char* io : {"", "direct", "buffered", "mmap"}) {
    runs.config.io = io;
    for (int round = 0; round < 6; ++round) {
      INFO(devices << " devices, streamed " << streamed << ", --io " << io << ", round " << round);
      runs.restore();
      if (round % 3 != 1)
        runs.damage(random);
      {
        runtime rt(runs.config);
        const auto got = disturbed_reply(rt, 1 + random() % (reply_tokens - 1), [&] {
          if (round % 3 != 0)
            runs.damage(random);
        });
        REQUIRE(got == runs.expected);
        REQUIRE(ids_of(rt.generate(prompt, options(reply_tokens))) == runs.expected);
      }
      CHECK(runs.notices.size() <= 2 * devices); // one that it is damaged, one that it can't be mended
    }
  }
}

TEST_CASE("packed weights that are damaged in every group are whole again after a run, with one notice") {
  const std::string io = GENERATE("direct", "buffered", "mmap");
  damaged_runs runs("mended", 1, false);
  runs.config.io = io;
  runs.restore();
  const auto file =
      packed_cache::open(runs.config.packed_cache, *packed_key::parse(runs.entries.front().first.filename().string()));
  REQUIRE(file);
  const int fd = ::open(file->path().c_str(), O_WRONLY | O_CLOEXEC);
  for (std::size_t s = 0; s < file->sections(); ++s)
    REQUIRE(::pwrite(fd, "damage", 6, static_cast<off_t>(file->offset(s) + 40)) == 6);
  ::close(fd);
  CHECK_FALSE(runs.all_are_sound());
  CHECK(ids_of(runtime(runs.config).generate(prompt, options(reply_tokens))) == runs.expected);
  REQUIRE(runs.notices.size() == 1);
  CHECK_THAT(runs.notices.front(), Catch::Contains("damaged"));
  CHECK(runs.all_are_sound());
}

TEST_CASE("a budget that changes while mapped weights are damaged changes nothing in the text") {
  damaged_runs runs("budget", 1, false);
  runs.config.io = "mmap";
  runs.restore();
  auto least = runs.config;
  least.devices.front().bytes = 1;
  const auto smallest = runtime::plan(least).total_bytes;
  runtime rt(runs.config);
  std::mt19937 random(3);
  std::size_t pieces = 0;
  auto reply = rt.generate(prompt, options(reply_tokens));
  std::vector<token_id> got;
  while (const auto p = reply.next()) {
    if (p->id >= 0)
      got.push_back(p->id);
    if (++pieces == 4 || pieces == 12)
      runs.damage(random);
    if (pieces == 8 || pieces == 16)
      rt.set_budget(pieces == 8 ? smallest : std::size_t{1} << 30);
  }
  CHECK(got == runs.expected);
}

TEST_CASE("replicas over mapped weights that are cut short go on with the same text, each and in one copy") {
  damaged_runs runs("replicas", 1, false);
  runs.config.io = "mmap";
  runs.restore();
  runtime rt(runs.config);
  rt.wait_until_loaded();
  const auto weights = [&] { return rt.memory().front().purposes.front().in_use_bytes; };
  const auto before = weights();
  std::vector<runtime> replicas;
  replicas.push_back(rt.replicate());
  replicas.push_back(rt.replicate());
  const bool idle = GENERATE(true, false); // replicas that only look later
  std::vector<std::vector<token_id>> got(3);
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    got[0] = disturbed_reply(rt, 5, [&] { std::filesystem::resize_file(runs.entries.front().first, 8192); });
  });
  if (idle)
    threads.front().join();
  for (std::size_t i = 0; i < 2; ++i)
    threads.emplace_back([&, i] { got[i + 1] = ids_of(replicas[i].generate(prompt, options(reply_tokens))); });
  for (auto& t : threads)
    if (t.joinable())
      t.join();
  for (const auto& reply : got)
    CHECK(reply == runs.expected);
  CHECK(weights() == before);
  CHECK(ids_of(rt.generate(prompt, options(reply_tokens))) == runs.expected);
}
