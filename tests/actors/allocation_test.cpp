// What a token allocates once everything is warm: nothing from the pool, and from the heap as much as it gives back.
#include "runtime/runtime_impl.hpp"
#include "tests/support/tiny_model.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): operator new has no other place to count
std::atomic<std::int64_t> allocated{0}, freed{0};

} // namespace

// A sanitizer has its own. GCC, which sees through these two, takes the pair for a mismatch.
#if !defined(__SANITIZE_ADDRESS__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif
void* operator new(std::size_t bytes) {
  allocated.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes ? bytes : 1))
    return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept {
  if (p)
    freed.fetch_add(1, std::memory_order_relaxed);
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  operator delete(p);
}
#endif

using namespace tropilla;

TEST_CASE("a token takes no block from the pool, and leaves nothing on the heap") {
  const bool streamed = GENERATE(false, true);
  runtime_config config;
  config.model = testing::tiny_model();
  config.threads = 2;
  config.context = 512;
  config.packed_cache = testing::scratch() / "packed-allocations";
  if (streamed) {
    config.budget_bytes = 1;
    config.budget_bytes = runtime::plan(config).total_bytes;
  }
  for (int round = 0; round < 2; ++round) { // the first leaves packed weights
    runtime_impl rt(config, nullptr);
    struct cost {
      std::int64_t heap = 0;
      std::uint64_t blocks = 0;
    };
    // What a reply of so many tokens allocates from its submission to its end.
    const auto reply = [&](std::size_t tokens) {
      const auto channel = std::make_shared<reply_channel>();
      generation_options o;
      o.max_tokens = tokens;
      o.ignore_eos = true;
      const auto blocks = [&] { return rt.arbiter->usage("host:0").pool.allocations; };
      const auto blocks_before = blocks();
      const auto heap_before = allocated.load();
      (void)rt.submit(rt.make_request({1, 2, 3}, o, false, channel));
      while (channel->next_piece())
        ;
      return cost{allocated - heap_before, blocks() - blocks_before};
    };
    (void)reply(240); // everything is as large as it gets
    const auto level = allocated - freed;
    const cost of_short = reply(40), of_long = reply(240);
    CHECK(of_long.blocks < of_short.blocks + 200 / 4);  // KV pages, and weights that make room for them, come in steps
    CHECK(std::abs((allocated - freed) - level) < 200); // in flight at one moment or the other
    if (round == 1) {
      const auto per_token = (of_long.heap - of_short.heap) / 200;
      WARN(per_token << " heap allocations per token, " << (streamed ? "streamed" : "in memory"));
      if (!streamed)
        CHECK(per_token < 25); // messages between actors, and what carries a job to its stream
    }
  }
}
