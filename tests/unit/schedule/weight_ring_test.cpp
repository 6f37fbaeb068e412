// Which weight groups are loaded when: resident ones, and those that pass through the ring.
#include "src/schedule/weight_ring.hpp"

#include "tests/support/driven_ring.hpp"

#include <numeric>

using namespace tropilla;
using testing::driven_ring;
using testing::streamed_groups;
using groups = std::vector<std::size_t>;

namespace {

weight_ring_setup resident_groups(std::size_t count) {
  weight_ring_setup setup;
  setup.groups.assign(count, group_kind::resident);
  setup.norm_group = count;
  return setup;
}

groups up_to(std::size_t end) {
  groups out(end);
  std::iota(out.begin(), out.end(), std::size_t{0});
  return out;
}

void need(driven_ring& r, const groups& wanted) {
  for (const auto g : wanted)
    r.need(g);
}

/// A step that needs the groups from `first` on, each of which is loaded when it is waited for.
void compute(driven_ring& r, std::size_t first, std::size_t end) {
  for (std::size_t g = first; g < end; ++g)
    r.need(g);
  for (std::size_t g = first; g < end; ++g) {
    while (!r.holds(g)) {
      REQUIRE_FALSE(r.loads.empty());
      r.load(r.loads.front());
    }
    r.release(g);
  }
}

} // namespace

TEST_CASE("resident groups are leased and loaded in order, twelve in flight") {
  driven_ring r(resident_groups(20));
  CHECK(r.leases == up_to(12));
  CHECK(r.slot_leases == 0);
  r.lease_group(0);
  r.lease_group(1);
  CHECK(r.loads == groups{0, 1});
  CHECK(r.leases.back() == 11); // a lease alone makes no room
  r.load(1);
  CHECK(r.leases.back() == 12);
  need(r, {0, 1, 15});
  CHECK(r.delivered == groups{1});
  r.load(0);
  CHECK(r.delivered == groups{1, 0});
  CHECK(r.leases.back() == 13); // 15 is waited for, and keeps its turn
  while (!r.leases.empty()) {
    r.lease_group(r.leases.front());
    r.load(r.loads.front());
    CHECK(r.leases.size() + r.loads.size() <= 12);
  }
  CHECK(r.delivered == groups{1, 0, 15});
  need(r, up_to(20));
  CHECK(r.waiting.empty());
}

TEST_CASE("a resident group that is refused or can't be read is tried again when it is needed again") {
  driven_ring r(resident_groups(3));
  need(r, up_to(3));
  r.refuse_group(0);
  r.lease_group(1);
  r.fail_load(1);
  CHECK(r.failures == std::vector<std::string>{"no block for group 0", "group 1 can't be read"});
  CHECK(r.leases == groups{2});
  r.need(1);
  r.need(1);
  r.need(2);
  CHECK(r.leases == groups{2, 1}); // once each
  r.need(0);
  CHECK(r.leases == groups{2, 1, 0});
  for (const std::size_t g : {1, 0, 2}) {
    r.lease_group(g);
    r.load(g);
  }
  CHECK(r.waiting.empty());
  CHECK(r.delivered == groups{1, 1, 0, 2, 2});
}

TEST_CASE("failures make room for the resident groups behind them") {
  driven_ring r(resident_groups(15));
  r.refuse_group(3);
  CHECK(r.leases.back() == 12);
  r.lease_group(0);
  r.fail_load(0);
  CHECK(r.leases.back() == 13);
  r.need(0); // behind those that were not tried yet
  CHECK(r.leases.back() == 13);
  r.refuse_group(1);
  r.refuse_group(2);
  CHECK(r.leases.back() == 0);
}

TEST_CASE("groups that need no load are delivered at once, and never loaded") {
  auto setup = resident_groups(3);
  setup.groups[1] = group_kind::no_load;
  driven_ring r(setup);
  CHECK(r.leases == groups{0, 2});
  r.need(1);
  r.need(1);
  CHECK(r.delivered == groups{1, 1});
}

TEST_CASE("streamed groups go round, and each need gets its group once, in order") {
  driven_ring r(streamed_groups(5, 1, 2));
  CHECK(r.slot_leases == 2);
  r.lease_slots();
  CHECK(r.slots == 2);
  CHECK(r.loads == groups{0, 1});
  groups expected;
  for (int step = 0; step < 3; ++step) {
    r.begin(true);
    compute(r, 0, 5);
    expected.insert(expected.end(), {0, 1, 2, 3, 4});
    CHECK(r.delivered == expected);
    CHECK(r.loads == groups{0, 1}); // for the next step
  }
}

TEST_CASE("behind the last group before the output comes the first, where a step has no logits") {
  driven_ring r(streamed_groups(5, 2, 2));
  r.lease_slots();
  r.begin(false);
  compute(r, 0, 3);
  CHECK(r.loads == groups{0, 1});
  r.begin(true);
  compute(r, 0, 5);
  CHECK(r.delivered == groups{0, 1, 2, 0, 1, 2, 3, 4});
}

TEST_CASE("a group that was delivered keeps its slot until it is released, and is delivered again meanwhile") {
  driven_ring r(streamed_groups(4, 0, 2));
  r.lease_slots();
  r.load(0);
  r.load(1);
  need(r, {0, 1, 2, 0});
  CHECK(r.delivered == groups{0, 1, 0});
  CHECK(r.loads.empty());
  r.release(3); // which nobody has
  CHECK(r.loads.empty());
  r.release(0);
  CHECK(r.loads == groups{2});
  r.release(0);
  CHECK(r.loads == groups{2});
}

TEST_CASE("a ring full of what nobody needs begins where the step stands") {
  driven_ring r(streamed_groups(6, 0, 2));
  r.lease_slots();
  r.load(0);
  r.need(4);
  CHECK(r.loads == groups{1}); // it may be needed
  r.load(1);
  CHECK(r.loads == groups{4, 5});
  r.load(4);
  CHECK(r.delivered == groups{4});
}

TEST_CASE("a step that is given up gives its groups back and cancels those who wait") {
  driven_ring r(streamed_groups(6, 0, 3));
  r.lease_slots();
  r.load(0);
  r.load(1);
  need(r, up_to(6));
  r.abandon();
  CHECK(r.failures == std::vector<std::string>(4, "the step was given up"));
  CHECK(r.loads == groups{2, 0, 1}); // 2 comes just right
  compute(r, 0, 6);
  CHECK(r.delivered == groups{0, 1, 2, 0, 1, 3, 4, 5});
}

TEST_CASE("a load that a step given up has left behind takes no slot from the groups before it") {
  driven_ring r(streamed_groups(6, 0, 2));
  r.lease_slots();
  r.need(0);
  r.need(1);
  for (std::size_t g = 0; g < 2; ++g) {
    r.load(g);
    r.release(g);
  }
  CHECK(r.loads == groups{2, 3});
  r.abandon();
  CHECK(r.loads == groups{2, 3});
  need(r, up_to(6));
  r.load(3);
  CHECK(r.delivered == groups{0, 1}); // although 3 is waited for
  CHECK(r.loads == groups{2, 0});
  r.load(2);
  CHECK(r.loads == groups{0, 1});
  r.load(0);
  CHECK(r.delivered == groups{0, 1, 0});
}

TEST_CASE("a load that was left behind is welcome again when a later step given up makes it one of the first") {
  driven_ring r(streamed_groups(6, 0, 2));
  r.lease_slots();
  r.need(4); // 0 and 1 are in flight
  CHECK(r.loads == groups{0, 1});
  r.load(0);
  r.load(1);
  CHECK(r.loads == groups{4, 5});
  r.abandon(); // both are stale
  r.need(4);
  r.load(4);
  CHECK(r.delivered.empty());
  CHECK(r.loads == groups{5, 0});
  r.abandon();
  r.need(0);
  r.load(0);
  CHECK(r.delivered == groups{0});
}

TEST_CASE("a streamed group that can't be read fails those who wait for it, and is the next that is loaded") {
  driven_ring r(streamed_groups(4, 0, 2));
  r.lease_slots();
  need(r, {0, 1});
  r.fail_load(1);
  CHECK(r.failures == std::vector<std::string>{"group 1 can't be read"});
  CHECK(r.loads == groups{0}); // not tried again by itself
  r.need(1);
  CHECK(r.loads == groups{0, 1});
  r.load(0);
  r.load(1);
  CHECK(r.delivered == groups{0, 1});
}

TEST_CASE("loads that fail between two steps are tried again in the order of need") {
  driven_ring r(streamed_groups(6, 0, 3));
  r.lease_slots();
  for (const std::size_t g : {0, 2, 1})
    r.fail_load(g);
  r.begin(true);
  CHECK(r.loads == groups{0, 1, 2});
  r.fail_load(0);
  r.fail_load(2);
  r.load(1);
  CHECK(r.loads == groups{0, 2});
}

TEST_CASE("a ring goes on when loads fail that a step given up has left behind") {
  driven_ring r(streamed_groups(6, 0, 2));
  r.lease_slots();
  compute(r, 0, 2);
  CHECK(r.loads == groups{2, 3});
  r.abandon();
  need(r, {0, 1});
  r.fail_load(2);
  r.fail_load(3);
  CHECK(r.failures.empty());
  CHECK(r.loads == groups{0, 1});
}

TEST_CASE("a slot that is refused fails those who have none, and is asked for again with the next need") {
  driven_ring r(streamed_groups(4, 0, 2));
  r.lease_slot();
  need(r, {0, 1});
  r.refuse_slot();
  CHECK(r.failures == std::vector<std::string>{"no slot"}); // 0 has one
  CHECK(r.slot_leases == 0);
  r.need(1);
  CHECK(r.slot_leases == 1);
  r.need(2);
  CHECK(r.slot_leases == 1);
  r.lease_slot();
  CHECK(r.slots == 2);
  CHECK(r.loads == groups{0, 1});
}

TEST_CASE("a slot beyond two that is refused fails nobody, and is asked for again when steps have waited") {
  driven_ring r(streamed_groups(6, 0, 3));
  r.lease_slot();
  r.lease_slot();
  need(r, {0, 1, 2});
  r.refuse_slot();
  CHECK(r.failures.empty());
  for (std::size_t g = 0; g < 3; ++g) {
    while (!r.holds(g))
      r.load(r.loads.front());
    r.release(g);
  }
  CHECK(r.slot_leases == 0);
  compute(r, 3, 6);
  CHECK(r.delivered == groups{0, 1, 2, 3, 4, 5});
  CHECK(r.slot_leases == 1); // each of these groups was waited for
}

TEST_CASE("a ring whose bytes others need gives up what is needed last, and keeps two slots") {
  driven_ring r(streamed_groups(4, 0, 3));
  r.lease_slots();
  compute(r, 0, 4);
  while (!r.loads.empty())
    r.load(r.loads.front()); // 2, 0 and 1 in the order of the slots
  r.shrink();
  CHECK(r.slots == 2);
  r.shrink(); // nobody needs these two now, and they stay
  CHECK(r.slots == 2);
  r.delivered.clear();
  need(r, {0, 1});
  CHECK(r.delivered == groups{0, 1});
  r.release(0);
  CHECK(r.loads == groups{2});
}

TEST_CASE("a ring whose bytes others need keeps what is held or in flight, and wants no more than it has slots for") {
  driven_ring r(streamed_groups(8, 0, 4));
  r.lease_slots();
  r.need(0);
  r.load(0);
  r.shrink();
  CHECK(r.slots == 4);
  r.load(1);
  r.shrink(); // 1 goes, although 2 and 3 are in flight: 3 will be too many
  CHECK(r.slots == 3);
  r.load(3);
  CHECK(r.loads == groups{2, 1});
}

TEST_CASE("a ring grows while steps wait for loads that take no longer than computing, and shrinks back") {
  driven_ring r(streamed_groups(12, 0, 2, 2));
  r.lease_slots();
  const auto pass = [&r](int milliseconds) { r.now += std::chrono::milliseconds(milliseconds); };
  const auto load_all = [&r] {
    while (!r.loads.empty())
      r.load(r.loads.front());
  };
  // One group in six takes `long_ms` to compute, in which all loads end; the others 1 ms, and each waits for its load.
  const auto uneven_steps = [&](int count, int load_ms, int long_ms) {
    for (std::size_t i = 0; i < 12 * static_cast<std::size_t>(count); ++i) {
      r.need(i % 12);
      while (!r.holds(i % 12)) {
        pass(load_ms);
        r.load(r.loads.front());
      }
      pass(1);
      if (i % 6 == 0) {
        load_all();
        pass(long_ms);
      }
      r.release(i % 12);
      r.lease_slots();
    }
  };
  const auto smooth_steps = [&](int count) {
    for (std::size_t i = 0; i < 12 * static_cast<std::size_t>(count); ++i) {
      load_all();
      r.need(i % 12);
      r.release(i % 12);
    }
  };
  uneven_steps(20, 50, 20);
  CHECK(r.slots == 2); // steps wait for loads whatever the ring holds
  uneven_steps(20, 1, 100);
  CHECK(r.slots == 4); // as many as are spare
  smooth_steps(80);
  CHECK(r.slots == 4);
  smooth_steps(100);
  CHECK(r.slots == 2);
}
