// What a token allocates once everything is warm: nothing from the pool, and from the heap as much as it gives back.
#include "actors/runtime_impl.hpp"
#include "tests/support/tiny_model.hpp"

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

namespace {

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
    runtime_access::parts parts(config, nullptr);
    const auto channel = std::make_shared<reply_channel>();
    generation_options o;
    o.max_tokens = 220;
    o.ignore_eos = true;
    (void)parts.submit(parts.make_request({1, 2, 3}, o, false, channel));
    std::int64_t heap = 0, level = 0;
    std::uint64_t blocks = 0;
    for (int token = 0; channel->next_piece(); ++token) {
      const auto pool = parts.ledger->usage("host:0").pool;
      if (token == 100) {
        heap = allocated;
        level = allocated - freed;
        blocks = pool.allocations;
      }
      if (token == 200) {
        CHECK(pool.allocations == blocks);
        if (round == 1) {
          WARN((allocated - heap) / 100 << " heap allocations per token, " << (streamed ? "streamed" : "in memory"));
          CHECK(std::abs((allocated - freed) - level) < 200); // in flight at one moment or the other
        }
      }
    }
  }
}
