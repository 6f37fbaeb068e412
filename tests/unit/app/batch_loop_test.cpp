// From requests to records with a tiny model, while the feeder fails.
#include "app/batch_loop.hpp"

#include "src/batch/record.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <set>

using namespace tropilla;

namespace {

struct file_closer {
  void operator()(std::FILE* f) const { std::fclose(f); }
};
using file = std::unique_ptr<std::FILE, file_closer>;

file requests(std::size_t lines) {
  file f(std::tmpfile());
  REQUIRE(f);
  for (std::size_t i = 0; i < lines; ++i)
    REQUIRE(std::fprintf(f.get(), "{\"prompt\": [%d, 2], \"max_tokens\": 3, \"ignore_eos\": true}\n",
                         1 + static_cast<int>(i % 50)) > 0);
  std::rewind(f.get());
  return f;
}

runtime tiny() {
  runtime_config c;
  c.model = testing::tiny_model();
  c.threads = 1;
  c.context = 64;
  return runtime(std::move(c));
}

app::batch_work work_on(const file& f, prompt_encoder encode) {
  request_queue_setup setup;
  setup.input = ::fileno(f.get());
  setup.name = "the input";
  setup.encode = std::move(encode);
  app::batch_work work;
  work.queue = std::make_shared<request_queue>(std::move(setup));
  work.in_flight = 6;
  return work;
}

} // namespace

TEST_CASE("feeders that die in the middle of a line are replaced, and every line gets one record") {
  auto rt = tiny();
  const auto input = requests(90);
  std::size_t calls = 0; // one feeder at a time encodes
  auto work = work_on(input, [&](const batch_prompt& p, std::optional<bool>) {
    if (++calls % 10 == 0)
      throw calls; // no `error`: the feeder ends
    return std::get<std::vector<token_id>>(p);
  });
  work.ordered = GENERATE(false, true);
  std::vector<std::size_t> lines;
  work.write = [&](std::string_view record) { lines.push_back(read_record(record).line); };
  app::batch_loop loop(rt, std::move(work));
  CHECK(loop.run());
  CHECK(calls > 95);
  CHECK(lines.size() == 90);
  CHECK(std::set<std::size_t>(lines.begin(), lines.end()).size() == 90);
  CHECK(loop.totals().failed == 0);
  CHECK(loop.totals().output_tokens == 270);
}

TEST_CASE("a line that ends every feeder ends the batch with a sentence") {
  auto rt = tiny();
  const auto input = requests(5);
  auto work = work_on(input, [](const batch_prompt&, std::optional<bool>) -> std::vector<token_id> { throw 5; });
  work.write = [](std::string_view) {};
  app::batch_loop loop(rt, std::move(work));
  CHECK_THROWS_WITH((void)loop.run(), Catch::Contains("the feeder ended"));
}

TEST_CASE("what a full disk throws reaches the caller, and the runtime closes in the middle of replies") {
  auto rt = tiny();
  const auto input = requests(50);
  auto work =
      work_on(input, [](const batch_prompt& p, std::optional<bool>) { return std::get<std::vector<token_id>>(p); });
  work.write = [](std::string_view) { throw error(errc::io_error, "the disk is full"); };
  app::batch_loop loop(rt, std::move(work));
  CHECK_THROWS_WITH((void)loop.run(), "the disk is full");
}

TEST_CASE("a loop that is stopped says so and has written whole replies alone") {
  auto rt = tiny();
  const auto input = requests(50);
  auto work =
      work_on(input, [](const batch_prompt& p, std::optional<bool>) { return std::get<std::vector<token_id>>(p); });
  app::batch_loop* running = nullptr;
  std::size_t written = 0;
  work.write = [&](std::string_view) {
    if (++written == 10)
      running->stop();
  };
  app::batch_loop loop(rt, std::move(work));
  running = &loop;
  CHECK_FALSE(loop.run());
  CHECK(written >= 10);
  CHECK(loop.totals().requests == written);
  CHECK(loop.totals().output_tokens == 3 * written);
}
