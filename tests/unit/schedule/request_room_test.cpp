// What requests may hold: what is planned, what is leased beside it, what is refused.
#include "src/schedule/request_room.hpp"

#include "memory/arbiter.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <catch2/catch.hpp>

using namespace tropilla;
using Catch::Contains;

namespace {

/// A room of 1000 bytes on a device whose budget has 600 more.
struct fixture {
  std::shared_ptr<memory_arbiter> arbiter = memory_arbiter::make();
  std::shared_ptr<request_room> room;

  fixture() {
    arbiter->add_device("host:0", nullptr, 640, 640, 64);
    room = std::make_shared<request_room>(1000, [to = arbiter](std::size_t bytes) -> std::optional<lease> {
      auto answer = to->try_acquire({"host:0", bytes, purpose::requests, priority::background, outside_memory{}});
      if (auto* granted = std::get_if<lease>(&answer))
        return std::move(*granted);
      return std::nullopt;
    });
  }
  [[nodiscard]] std::size_t leased() const {
    return arbiter->usage("host:0").by_purpose[static_cast<std::size_t>(purpose::requests)];
  }
};

errc code_of(request_room& room, std::size_t bytes) {
  try {
    static_cast<void>(room.take(bytes));
  } catch (const error& e) {
    return e.code();
  }
  return errc::internal;
}

} // namespace

TEST_CASE("what is planned for requests is shared out, and comes back with the last copy") {
  fixture f;
  auto first = f.room->take(600);
  auto copy = first;
  const auto second = f.room->take(400);
  CHECK(f.leased() == 0);
  first.reset();
  const auto third = f.room->take(500); // the copy has the 600 still: it is leased
  CHECK(f.leased() == 512);
  copy.reset();
  const auto fourth = f.room->take(600);
  CHECK(f.leased() == 512);
}

TEST_CASE("what is planned is too little: the budget's rest is leased, and given back") {
  fixture f;
  auto planned = f.room->take(1000);
  auto leased = f.room->take(576);
  CHECK(f.leased() == 576);
  CHECK_THROWS_WITH(f.room->take(100), Contains("may take 100 B") && Contains("of the 1000 B") &&
                                           Contains("0 B are left") && Contains("when others have ended"));
  CHECK(code_of(*f.room, 100) == errc::busy);
  CHECK(code_of(*f.room, 2000) == errc::over_budget);
  leased.reset();
  CHECK(f.leased() == 0);
  CHECK_NOTHROW(f.room->take(100));
  planned.reset();
  CHECK_NOTHROW(f.room->take(1000));
}

TEST_CASE("a room without a budget beside it refuses what exceeds it") {
  const auto room = std::make_shared<request_room>(1000, nullptr);
  const auto some = room->take(999);
  CHECK(code_of(*room, 2) == errc::busy);
  CHECK_NOTHROW(room->take(1));
}

TEST_CASE("a request's bytes grow with its prompt, its replies and what it carries") {
  generation_options options;
  options.max_tokens = 100;
  const auto base = request_bytes(10, options, 1000);
  CHECK(request_bytes(1010, options, 1000) >= base + 2 * 1000 * sizeof(token_id)); // the request's copy and the reply's
  auto longer = options;
  longer.max_tokens = static_cast<std::size_t>(-1); // it ends with the context
  CHECK(request_bytes(10, longer, 1000) >= base + 900 * sizeof(token_id));
  CHECK(request_bytes(10, longer, 1000) < base + 100000);
  auto several = options;
  several.outputs = 5;
  CHECK(request_bytes(1000, several, 1000) >= request_bytes(1000, options, 1000) + 4 * 1000 * sizeof(token_id));
  auto counted = options;
  counted.sampling.repetition_penalty = 1.1;
  CHECK(request_bytes(1000, counted, 1000) > request_bytes(1000, options, 1000) + 1000 * sizeof(token_id));
  auto carries = options;
  carries.stop = {std::string(5000, 'x')};
  carries.sampling.bias.resize(1000);
  CHECK(request_bytes(10, carries, 1000) > base + 5000 + 1000 * sizeof(logit_bias));
}

TEST_CASE("what is planned by default has room for sixteen sequences as long as the context") {
  for (const std::size_t context : {64U, 4096U, 131072U})
    for (const std::size_t sequences : {1U, 2U, 16U, 1024U}) {
      generation_options options;
      options.max_tokens = static_cast<std::size_t>(-1);
      CHECK(default_request_bytes(sequences, context) >=
            std::min<std::size_t>(sequences, 16) * request_bytes(context, options, context));
    }
}
