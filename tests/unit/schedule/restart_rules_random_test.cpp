// The rules over a cast that exists as numbers: ends, changes and answers in random orders, and what must hold in all.
#include "src/schedule/suspensions.hpp"
#include "tests/unit/schedule/action_list.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <deque>
#include <random>

using namespace tropilla;
using testing::leases;
using testing::placement_named;

namespace {

using placement = restart_rules::placement;

/// What all episodes together came to, so that the test knows that it saw it.
struct sightings {
  std::size_t restarts = 0, computes = 0, changed = 0, refused = 0, given_up = 0;
};

/// Compute as a supervisor sees it: it takes messages in order, stands still when it may, and its answers take a while.
struct fake_compute {
  struct message {
    bool resume = false; ///< or suspend
    placement of;
  };
  bool alive = true;
  placement current;
  std::deque<message> inbox{};
  suspensions wanted{};
  std::vector<placement> asked{};                                 ///< suspensions without an answer
  std::deque<std::pair<placement, std::vector<lease>>> answers{}; ///< in flight

  /// One message, or one look at what is wanted. False when there is nothing that it may do.
  bool act(bool between_steps) {
    const bool waits = !inbox.empty() || !asked.empty();
    if (!inbox.empty()) {
      const auto m = std::move(inbox.front());
      inbox.pop_front();
      if (m.resume) {
        current = m.of;
        wanted.resume();
      } else {
        asked.push_back(m.of);
        wanted.add(m.of);
      }
    }
    while (stand_still(between_steps)) {
    }
    return waits;
  }

private:
  /// As compute does: all leases go to those who are answered first.
  bool stand_still(bool between_steps) {
    const auto kept = leases(wanted.suspended() ? 0 : 2);
    const auto due = wanted.take_due(current, !between_steps);
    for (auto left = std::erase(asked, due); left > 0; --left)
      answers.emplace_back(due, kept);
    return due != nullptr;
  }
};

/// One device's pipeline, compute and clients, and the rules that hold them together.
class random_cast {
public:
  random_cast(unsigned seed, sightings& s) : random_(seed), seen_(s) {}

  /// Something happens.
  void step() {
    may_refuse_ = true;
    switch (pick(10)) {
    case 0:
      if (auto& m = members_[pick(3)]; chance(4) && m == state::running)
        m = state::ended;
      break;
    case 1:
      if (chance(6))
        compute_.alive = false;
      break;
    case 2:
      if (chance(3))
        change();
      break;
    case 3:
      ++progress_;
      break;
    default:
      settle_one();
    }
  }

  /// Nothing new happens: what is in flight arrives, and then all must be well, or given up.
  void settle() {
    may_refuse_ = false;
    for (int quiet = 0; quiet < 100; ++quiet)
      if (settle_one())
        quiet = 0;
    CHECK(open_.empty());
    CHECK(answered_ == asked_);
    if (given_up_) {
      ++seen_.given_up;
      return;
    }
    CHECK(std::ranges::count(members_, state::running) == 3);
    CHECK(compute_.alive);
    CHECK_FALSE(compute_.wanted.suspended());
    CHECK(compute_.current == pipeline_of_);
  }

private:
  enum class state : std::uint8_t { running, stopped, ended, known };

  std::size_t pick(std::size_t n) { return random_() % n; }
  bool chance(std::size_t of) { return pick(of) == 0; }

  void change() {
    ++asked_;
    open_.push_back(chance(5) ? pipeline_of_ : placement_named("B"));
    perform(rules_.change(open_.back()));
  }

  /// One thing that is in flight arrives; false when the one that was chosen is not.
  bool settle_one() {
    const std::size_t i = pick(5);
    if (i < 3)
      return settle_member(members_[i]);
    if (i == 3)
      return compute_.alive && compute_.act(chance(3));
    if (!compute_.answers.empty()) { // those come before the news of its end
      auto [next, kept] = std::move(compute_.answers.front());
      compute_.answers.pop_front();
      perform(rules_.suspended(next, std::move(kept)));
      return true;
    }
    if (compute_.alive || compute_known_)
      return false;
    compute_known_ = true;
    perform(rules_.compute_ended("killed", progress_));
    return true;
  }

  bool settle_member(state& m) {
    if (m == state::stopped) {
      m = state::ended;
      return true;
    }
    if (m != state::ended)
      return false;
    m = state::known;
    perform(rules_.pipeline_member_ended("loader", "killed", progress_));
    return true;
  }

  void perform(const restart_rules::actions& todo) {
    for (const auto& each : todo)
      std::visit([this](const auto& a) { act(a); }, each);
  }

  void act(const restart_rules::log_restart& a) {
    ++seen_.restarts;
    CHECK(a.start <= restart_limit::max);
  }
  void act(const restart_rules::replace_member&) { FAIL("none ended"); }
  void act(const restart_rules::give_up_member&) { FAIL("none ended"); }
  void act(const restart_rules::tell_replaced&) { CHECK(compute_.alive); }
  void act(const restart_rules::tell_down&) { CHECK_FALSE(given_up_); }
  void act(const restart_rules::close_compute&) {
    given_up_ = true;
    compute_.alive = false;
  }
  void act(const restart_rules::suspend_compute& a) {
    CHECK_FALSE(given_up_);
    if (compute_.alive)
      compute_.inbox.push_back({false, a.next_placement});
  }
  void act(const restart_rules::stop_pipeline&) {
    for (auto& m : members_)
      if (m == state::running)
        m = state::stopped;
  }
  void act(const restart_rules::spawn_pipeline& a) {
    CHECK_FALSE(given_up_);
    CHECK(std::ranges::count(members_, state::known) == 3); // never two pipelines at once
    CHECK((rules_.kept().empty() || compute_.current != nullptr));
    const bool changes = a.next_placement != pipeline_of_;
    if (may_refuse_ && chance(changes ? 4 : 100))
      return perform(rules_.spawn_failed(error(errc::over_budget, "no bytes")));
    members_.fill(state::running);
    pipeline_of_ = a.next_placement;
    perform(rules_.pipeline_spawned());
  }
  void act(const restart_rules::spawn_compute&) {
    CHECK_FALSE(compute_.alive);
    if (may_refuse_ && chance(100))
      return perform(rules_.spawn_failed(error(errc::io_error, "no thread")));
    ++seen_.computes;
    compute_ = {true, pipeline_of_};
    compute_known_ = false;
    perform(rules_.compute_spawned());
  }
  void act(const restart_rules::resume_compute& a) {
    CHECK(a.placement == pipeline_of_);
    CHECK(std::ranges::count(members_, state::running) == 3);
    if (compute_.alive)
      compute_.inbox.push_back({true, a.placement});
  }
  void act(const restart_rules::log_refusal&) { CHECK_FALSE(open_.empty()); }
  void act(const restart_rules::answer_change& a) {
    REQUIRE_FALSE(open_.empty());
    ++answered_;
    if (!a.failure)
      CHECK(pipeline_of_ == open_.front());
    ++(a.failure ? seen_.refused : seen_.changed);
    open_.pop_front();
  }

  std::mt19937 random_;
  sightings& seen_;
  placement pipeline_of_ = placement_named("A");
  restart_rules rules_{"host:0", pipeline_of_};
  std::array<state, 3> members_{};
  fake_compute compute_{true, pipeline_of_};
  bool compute_known_ = false; ///< that it ended
  bool given_up_ = false, may_refuse_ = true;
  std::deque<placement> open_; ///< changes without an answer
  std::size_t asked_ = 0, answered_ = 0;
  std::uint64_t progress_ = 0;
};

} // namespace

TEST_CASE("in any order of events there is one pipeline, each change has one answer, and all run or are given up") {
  sightings seen;
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    random_cast cast(seed, seen);
    for (int moment = 0; moment < 6; ++moment) {
      for (int i = 0; i < 60; ++i)
        cast.step();
      cast.settle();
    }
  }
  CHECK(seen.restarts > 1000);
  CHECK(seen.computes > 300);
  CHECK(seen.changed > 1000);
  CHECK(seen.refused > 100);
  CHECK(seen.given_up > 10);
  CHECK(seen.given_up < 6 * 300 / 2);
}
