// Random orders of arrival, loss, abandonment, release and shrinking: nothing stalls, whatever happens.
#include "tests/support/driven_ring.hpp"

#include <random>

using namespace tropilla;
using testing::driven_ring;

namespace {

/// A ring, and a compute actor that follows the rules: it needs all groups of a step at once, releases them in order,
/// and gives a step up after a failure.
class world {
public:
  explicit world(unsigned seed) : random_(seed), ring_(make_setup()) {}

  void step() {
    ring_.now += std::chrono::milliseconds(below(3));
    const auto roll = below(100);
    if (roll < 35)
      end_load(below(100) < failing_);
    else if (roll < 50)
      answer_lease(below(100) < failing_);
    else if (roll < 80)
      compute();
    else if (roll < 82)
      ring_.shrink();
    else if (roll < 83)
      abandon();
    else if (roll < 84)
      release_nothing();
    else if (roll < 85)
      failing_ = below(2) == 0 ? 0 : 20 * below(5);
    must_move();
    grew = grew || ring_.slots > planned;
    given_up += ring_.slots < slots_before_ ? 1 : 0;
    slots_before_ = ring_.slots;
  }

  /// From now on nothing fails, and all that is needed comes.
  void recover() {
    failing_ = 0;
    if (in_step_)
      abandon();
    steps_done = 0;
    for (int i = 0; steps_done < 3; ++i) {
      REQUIRE(i < 2000);
      end_load(false);
      answer_lease(false);
      compute();
      must_move();
    }
    while (!ring_.leases.empty() || !ring_.loads.empty() || ring_.slot_leases > 0) {
      end_load(false);
      answer_lease(false);
    }
    REQUIRE(ring_.waiting.empty());
  }

  static constexpr std::size_t planned = 3;
  std::size_t steps_done = 0, given_up = 0;
  bool grew = false;

private:
  /// A group of each kind between streamed ones, of which the last three are for logits.
  static weight_ring_setup make_setup() {
    auto setup = testing::streamed_groups(30, 5, planned, 3);
    for (std::size_t g = 0; g < setup.groups.size(); g += 2)
      setup.groups[g] = g % 10 == 0 ? group_kind::no_load : group_kind::resident;
    return setup;
  }

  unsigned below(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::size_t any_of(const std::vector<std::size_t>& of) { return of[below(static_cast<unsigned>(of.size()))]; }

  void end_load(bool failure) {
    if (ring_.loads.empty())
      return;
    const auto g = below(2) == 0 ? ring_.loads.front() : any_of(ring_.loads);
    failure ? ring_.fail_load(g) : ring_.load(g);
  }
  void answer_lease(bool failure) {
    if (ring_.slot_leases > 0 && below(2) == 0)
      failure ? ring_.refuse_slot() : ring_.lease_slot();
    else if (!ring_.leases.empty())
      failure ? ring_.refuse_group(ring_.leases.front()) : ring_.lease_group(any_of(ring_.leases));
  }

  void compute() {
    if (!in_step_)
      return begin();
    if (!ring_.failures.empty())
      return abandon();
    while (next_ < end_ && !ring_.streams(next_) && !ring_.waits_for(next_))
      ++next_;
    if (next_ == end_) {
      in_step_ = false;
      ++steps_done;
    } else if (ring_.streams(next_) && ring_.holds(next_)) {
      ring_.release(next_++);
    }
  }
  void begin() {
    in_step_ = true;
    const bool with_output = below(3) > 0;
    next_ = std::exchange(first_step_, false) ? below(20) : 0; // a new ring may go on where another one ended
    end_ = with_output ? ring_.kinds.size() : ring_.kinds.size() - 5;
    ring_.begin(with_output);
    for (std::size_t g = next_; g < end_; ++g)
      if (!ring_.waits_for(g))
        ring_.need(g);
  }
  /// Releases a group that was given back already, or never delivered.
  void release_nothing() {
    const auto g = below(static_cast<unsigned>(ring_.kinds.size()));
    if (!ring_.holds(g))
      ring_.release(g);
  }
  void abandon() {
    in_step_ = false;
    ring_.abandon();
    ring_.failures.clear();
    for (const auto& [who, g] : ring_.waiting)
      REQUIRE_FALSE(ring_.streams(g));
  }

  /// While a group is waited for, what it waits for is in flight, or the step has the next group and will give it
  /// back, or has heard of a failure and will be given up.
  void must_move() {
    if (ring_.waiting.empty() || !ring_.failures.empty() || !ring_.loads.empty() || !ring_.leases.empty() ||
        ring_.slot_leases > 0)
      return;
    std::size_t next = next_;
    while (next < end_ && !ring_.streams(next) && !ring_.waits_for(next))
      ++next;
    REQUIRE(in_step_);
    REQUIRE(ring_.holds(next));
  }

  std::mt19937 random_;
  driven_ring ring_;
  unsigned failing_ = 0; ///< of a hundred loads and leases
  bool in_step_ = false, first_step_ = true;
  std::size_t next_ = 0, end_ = 0; ///< of the step
  std::size_t slots_before_ = 0;
};

} // namespace

TEST_CASE("a ring never stalls, and has everything again after each failure, whatever happens in whatever order") {
  std::size_t steps = 0, grew = 0, given_up = 0;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    world w(seed);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < 500; ++i)
        w.step();
      steps += w.steps_done;
      w.recover();
    }
    grew += w.grew ? 1 : 0;
    given_up += w.given_up;
  }
  CHECK(steps > 100); // it came to all of that
  CHECK(grew > 0);
  CHECK(given_up > 0);
}
