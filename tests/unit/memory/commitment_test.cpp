// Who asks before memory is written for the first time, and what is answered.
#include "memory/commitment.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t chunk = committed_bytes::chunk;

/// A system that a test changes by hand.
struct made_up_system {
  std::size_t left = 100 * mib;
  std::size_t anonymous = 10 * mib;
  std::size_t asked = 0;

  memory_promises::reading_function reading() {
    return [this] {
      ++asked;
      memory_reading out;
      out.anonymous = anonymous;
      out.bounds.push_back({memory_bound::counts::written, 200 * mib, left, "the test"});
      return out;
    };
  }
  void write(std::size_t bytes) {
    anonymous += bytes;
    left -= bytes;
  }
};

} // namespace

TEST_CASE("what was promised and not yet written counts, and so does what the program needs") {
  made_up_system system;
  memory_promises promises(system.reading(), {28 * mib, 0}); // 8 MiB of it are for rounding
  CHECK_FALSE(promises.promise(50 * mib));
  const auto refused = promises.promise(31 * mib);
  REQUIRE(refused);
  CHECK(*refused ==
        "31.0 MiB more would be written, 101.0 MiB with what is promised already and what the program needs "
        "besides, and the test leaves 100.0 MiB");
  CHECK_FALSE(promises.promise(30 * mib)); // a refusal promises nothing
  // Written or not, the same is left for others.
  for (int round = 0; round < 8; ++round) {
    system.write(10 * mib);
    CHECK(promises.promise(mib));
  }
  promises.take_back(10 * mib);
  CHECK_FALSE(promises.promise(10 * mib));
}

TEST_CASE("memory that another process took is not there, and is again when it is given back") {
  made_up_system system;
  memory_promises promises(system.reading(), {});
  CHECK_FALSE(promises.promise(60 * mib));
  system.write(60 * mib);
  system.left = 5 * mib;
  CHECK(promises.promise(6 * mib));
  system.left = 6 * mib;
  CHECK_FALSE(promises.promise(6 * mib));
}

TEST_CASE("addresses are no memory, and a system that says nothing refuses nothing") {
  memory_reading says;
  says.bounds.push_back({memory_bound::counts::mapped, mib, 0, "ulimit"});
  memory_promises promises([&] { return says; }, {mib, mib});
  CHECK_FALSE(promises.promise(std::size_t{1} << 40));
}

TEST_CASE("a reservation asks for each chunk once, and again after its pages went back") {
  made_up_system system;
  const auto promises = std::make_shared<memory_promises>(system.reading(), program_needs{});
  committed_bytes bytes(promises, 60 * chunk);
  system.asked = 0;
  CHECK_FALSE(bytes.commit(10, chunk)); // two chunks
  CHECK_FALSE(bytes.commit(0, 2 * chunk));
  CHECK_FALSE(bytes.commit(chunk, 1));
  CHECK_FALSE(bytes.commit(5, 0));
  CHECK(system.asked == 1);
  CHECK_FALSE(bytes.commit(2 * chunk, 48 * chunk)); // 100 MiB in all
  CHECK(bytes.commit(50 * chunk, 1));
  CHECK(bytes.commit(49 * chunk, 2 * chunk));
  bytes.trim(chunk / 2, 2 * chunk); // one whole chunk
  CHECK_FALSE(bytes.commit(50 * chunk, 1));
  CHECK(bytes.commit(51 * chunk, 1));
  CHECK(bytes.commit(chunk, 1));
}

TEST_CASE("what was promised ahead is counted at once and drawn without a question") {
  made_up_system system;
  memory_promises promises(system.reading(), {});
  CHECK(promises.promise_ahead(101 * mib));
  CHECK_FALSE(promises.promise_ahead(60 * mib));
  CHECK(promises.promise(41 * mib));
  system.asked = 0;
  CHECK_FALSE(promises.draw(20 * mib));
  CHECK_FALSE(promises.draw(30 * mib));
  CHECK(system.asked == 0);
  CHECK(promises.draw(51 * mib)); // 10 ahead, and 41 too many
  CHECK_FALSE(promises.draw(50 * mib));
  CHECK(system.asked == 2);
  CHECK(promises.draw(1));
}
