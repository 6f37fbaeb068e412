// The state machine of compute over a device, a pipeline and supervisors that exist as numbers: arrivals, losses and
// standing still in random orders, and what must hold in all.
#include "src/schedule/step_runner.hpp"

#include "tests/unit/schedule/action_list.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <deque>
#include <random>

using namespace tropilla;
using testing::placement_named;

namespace {

constexpr std::size_t group_count = 8, norm_group = 5;
const std::array placements{placement_named("A"), placement_named("B"), placement_named("C")};

/// What all episodes together came to, so that the test knows that it saw it.
struct sightings {
  std::size_t finished = 0, given_up = 0;                               ///< steps
  std::size_t suspended = 0, in_step = 0, for_another = 0, at_once = 0; ///< suspensions: all, and some of these
  std::size_t told = 0, refused = 0;                                    ///< those who wait for resident groups
};

class random_compute {
public:
  random_compute(unsigned seed, sightings& s)
      : random_(seed), seen_(s), hands_on_(chance(3)), current_(pick(placements.size())),
        runner_(groups(current_), hands_on_) {}

  /// Something happens.
  void step() {
    switch (pick(12)) {
    case 0:
      steps_.push_back(chance(2));
      runner_.step_wanted(steps_.back());
      break;
    case 1:
      if (chance(3)) {
        ++waiting_for_residents_;
        runner_.residents_wanted();
      }
      break;
    case 2:
      if (chance(4)) {
        const std::size_t next = chance(2) ? current_ : pick(placements.size());
        suspensions_.push_back(next);
        asked_standing_ = stands_still_;
        runner_.suspension_wanted(placements[next]);
      }
      break;
    case 3:
      if (chance(10) && runner_.may_go_on())
        runner_.fail(error(errc::device_failed, "the device"));
      break;
    default:
      settle_one(true);
    }
    go_on();
  }

  /// Nothing new happens: what is in flight arrives, and then nobody waits.
  void settle() {
    for (int quiet = 0; quiet < 100; ++quiet) {
      if (settle_one(false))
        quiet = 0;
      go_on();
    }
    CHECK(steps_.empty());
    CHECK(suspensions_.empty());
    CHECK(waiting_for_residents_ == 0);
    CHECK_FALSE(runner_.in_step());
    CHECK_FALSE(runner_.suspended());
  }

private:
  struct errand {
    std::optional<std::size_t> group; ///< or rows of the embedding
    step_runner::request_tag tag;
    std::size_t pipeline = 0;
  };

  std::size_t pick(std::size_t n) { return random_() % n; }
  bool chance(std::size_t of) { return pick(of) == 0; }

  /// Placement 0 keeps all groups; the others stream some, and the last has its embedding on disk.
  static step_groups groups(std::size_t placement) {
    std::vector<bool> streamed(group_count), present(group_count);
    for (std::size_t g = 1; g < group_count; ++g)
      streamed[g] = placement > 0 && g % (placement + 1) == 0;
    const bool on_disk = placement + 1 == placements.size();
    present[0] = on_disk; // it has no bytes then
    return {streamed, present, 0, group_count, norm_group, on_disk, placements[placement]};
  }

  /// One thing that is in flight arrives; false when there is nothing of the kind that was chosen.
  bool settle_one(bool may_fail) {
    switch (pick(4)) {
    case 0:
      if (!job_in_flight_)
        return false;
      return job_done();
    case 1:
      if (!handed_on_)
        return false;
      handed_on_ = false;
      return end_step(false);
    case 2:
      if (!stands_still_ || chance(3))
        return stands_still_;
      stands_still_ = asked_standing_ = false;
      current_ = next_;
      ++pipeline_;
      fresh_ = true;
      held_.fill(false);
      runner_.resume(groups(current_));
      return true;
    default:
      return arrive(may_fail);
    }
  }

  bool job_done() {
    const bool of_predecessor = runner_.waits_for_predecessor();
    job_in_flight_ = false;
    for (const auto back : runner_.job_done()) {
      REQUIRE_FALSE(of_predecessor);
      REQUIRE((held_[back] && groups(current_).streamed[back] && back < computed_));
      held_[back] = false;
    }
    return true;
  }

  bool arrive(bool may_fail) {
    if (errands_.empty())
      return false;
    const auto at = errands_.begin() + static_cast<std::ptrdiff_t>(pick(errands_.size()));
    const auto e = *at;
    errands_.erase(at);
    const bool fails = may_fail && chance(12);
    const error why(errc::io_error, "lost");
    if (!e.group) {
      const bool taken = fails ? runner_.embedding_failed(e.tag, why) : runner_.embedding_arrived(e.tag);
      CHECK((!taken || e.pipeline == pipeline_));
    } else if (fails) {
      if (runner_.failed(*e.group, e.tag, why) && waiting_for_residents_ > 0)
        refusal_due_ = true;
    } else if (runner_.arrived(*e.group, e.tag)) {
      CHECK(e.pipeline == pipeline_);
      CHECK_FALSE(stands_still_);
      REQUIRE_FALSE(held_[*e.group]); // asked for once
      held_[*e.group] = true;
    }
    return true;
  }

  void go_on() {
    while (const auto todo = runner_.decide())
      std::visit([this](const auto& a) { act(a); }, *todo);
    CHECK_FALSE(refusal_due_);
    CHECK((steps_.empty() || runner_.in_step() || stands_still_ ||
           runner_.waits_for_predecessor())); // one follows the other
  }

  void act(const step_runner::suspend& a) {
    const auto next = static_cast<std::size_t>(std::ranges::find(placements, a.next_placement) - placements.begin());
    REQUIRE_FALSE(job_in_flight_);
    REQUIRE(std::ranges::find(suspensions_, next) != suspensions_.end());
    if (stands_still_) {
      CHECK(asked_standing_);
      ++seen_.at_once;
    } else if (next != current_) {
      CHECK_FALSE(runner_.in_step());
      CHECK(std::ranges::find(suspensions_, current_) == suspensions_.end());
      ++seen_.for_another;
    } else if (runner_.in_step()) {
      ++seen_.in_step;
    }
    ++seen_.suspended;
    std::erase(suspensions_, next);
    stands_still_ = true;
    next_ = next;
    held_.fill(false);
    for (std::size_t g = 0; g < group_count; ++g)
      CHECK_FALSE(runner_.is_present(g));
  }

  void act(const step_runner::tell_residents&) {
    REQUIRE(waiting_for_residents_ > 0);
    const auto now = groups(current_);
    for (std::size_t g = 0; g < group_count; ++g)
      CHECK((now.streamed[g] || now.present[g] || held_[g]));
    waiting_for_residents_ = 0;
    ++seen_.told;
  }

  void act(const step_runner::refuse_residents&) {
    CHECK(std::exchange(refusal_due_, false));
    waiting_for_residents_ = 0;
    ++seen_.refused;
  }

  void act(const step_runner::begin&) {
    REQUIRE_FALSE(steps_.empty());
    REQUIRE_FALSE(stands_still_);
    REQUIRE_FALSE(job_in_flight_);
    computed_ = 0;
    fresh_ = true;
  }

  void act(const step_runner::announce& a) {
    CHECK(std::exchange(fresh_, false)); // once where the step begins, and where compute goes on
    CHECK(runner_.in_step());
    CHECK(a.with_logits == steps_.front());
    CHECK(a.lookup.has_value() == (groups(current_).embedding_on_disk && computed_ == 0));
    if (a.lookup)
      errands_.push_back({std::nullopt, *a.lookup, pipeline_});
  }

  void act(const step_runner::ask& a) {
    CHECK((!fresh_ || !runner_.in_step())); // what brings the groups knows of the step
    CHECK_FALSE(stands_still_);
    for (const auto& q : a.requests) {
      CHECK_FALSE(held_[q.group]);
      errands_.push_back({q.group, q.tag, pipeline_});
    }
  }

  void act(const step_runner::compute& a) {
    REQUIRE_FALSE(job_in_flight_);
    REQUIRE_FALSE(stands_still_);
    REQUIRE_FALSE(fresh_);
    REQUIRE(a.first == computed_);
    REQUIRE(a.last > a.first);
    for (std::size_t g = a.first; g < a.last; ++g)
      REQUIRE(runner_.is_present(g));
    CHECK(a.ends_step == (a.last == end_of_step()));
    if (chance(30))
      return runner_.fail(error(errc::device_failed, "not enqueued"));
    computed_ = a.last;
    job_in_flight_ = true;
  }

  void act(const step_runner::hand_on&) {
    REQUIRE(hands_on_);
    CHECK(computed_ == end_of_step());
    if (chance(30))
      return runner_.fail(error(errc::device_failed, "not handed on"));
    handed_on_ = true;
  }

  void act(const step_runner::finish&) {
    REQUIRE_FALSE(hands_on_);
    CHECK(computed_ == end_of_step());
    if (chance(30))
      return runner_.fail(error(errc::device_failed, "not copied"));
    (void)end_step(false);
  }

  void act(const step_runner::give_up&) {
    ++seen_.given_up;
    (void)end_step(true);
  }

  bool end_step(bool given_up) {
    REQUIRE_FALSE(job_in_flight_);
    REQUIRE(runner_.in_step());
    seen_.finished += !given_up;
    for (const auto dropped : runner_.end(given_up))
      held_[dropped] = false;
    const auto now = groups(current_);
    for (std::size_t g = 0; g < group_count; ++g)
      REQUIRE_FALSE((now.streamed[g] && runner_.is_present(g)));
    steps_.pop_front();
    return true;
  }

  [[nodiscard]] std::size_t end_of_step() const { return steps_.front() ? group_count : norm_group; }

  std::mt19937 random_;
  sightings& seen_;
  bool hands_on_;
  std::size_t current_, next_ = 0, pipeline_ = 0;
  step_runner runner_;
  bool job_in_flight_ = true, handed_on_ = false, stands_still_ = false;
  bool fresh_ = false; ///< a step began, or compute goes on, and `start` has not followed
  std::deque<bool> steps_;
  std::size_t computed_ = 0; ///< groups of the step that were in a job
  std::vector<errand> errands_;
  std::array<bool, group_count> held_{};
  std::vector<std::size_t> suspensions_; ///< without an answer
  bool asked_standing_ = false;          ///< one of them came while compute stood still
  std::size_t waiting_for_residents_ = 0;
  bool refusal_due_ = false;
};

} // namespace

TEST_CASE("in any order of arrival, loss and standing still steps compute their groups once, and all get answers") {
  sightings seen;
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    random_compute one(seed, seen);
    for (int moment = 0; moment < 4; ++moment) {
      for (int i = 0; i < 150; ++i)
        one.step();
      one.settle();
    }
  }
  CHECK(seen.finished > 5000);
  CHECK(seen.given_up > 1000);
  CHECK(seen.suspended > 1000);
  CHECK(seen.in_step > 500);
  CHECK(seen.for_another > 300);
  CHECK(seen.at_once > 100);
  CHECK(seen.told > 1000);
  CHECK(seen.refused > 100);
}
