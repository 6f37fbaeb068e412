// The state machine of compute: orders of arrival, losses and standing still, without a device.
#include "src/schedule/step_runner.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>

using namespace tropilla;
using what = step_runner::decision::what;

namespace {

/// Embedding, four layers, norm and two tiles of the head; `streamed` layers.
step_groups groups(std::vector<bool> streamed, std::vector<bool> there = {}) {
  const std::size_t count = streamed.size();
  there.resize(count);
  return {std::move(streamed), std::move(there), 0, count, 5, false};
}

const std::vector<bool> all_resident(8, false);
const std::vector<bool> some_streamed{false, true, false, true, true, false, false, true};

/// A runner whose inherited job is done.
step_runner ready(step_groups g, bool hands_on = false) {
  step_runner r(std::move(g), hands_on);
  CHECK_FALSE(r.may_begin());
  CHECK(r.inherits());
  CHECK(r.job_done().empty());
  CHECK(r.may_begin());
  return r;
}

std::vector<std::size_t> numbers(const std::vector<step_runner::question>& questions) {
  std::vector<std::size_t> out;
  for (const auto& q : questions)
    out.push_back(q.group);
  return out;
}

void bring_all(step_runner& r) {
  for (const auto& q : r.questions())
    REQUIRE(r.arrived(q.group, q.stamp));
}

} // namespace

TEST_CASE("a step of resident groups is one job") {
  auto r = ready(groups(all_resident));
  CHECK(numbers(r.questions()) == std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(r.questions().empty()); // asked for once
  auto other = ready(groups(all_resident));
  CHECK_FALSE(other.all_resident_there());
  bring_all(other);
  CHECK(other.all_resident_there());
  other.begin(true);
  CHECK_FALSE(other.start());
  const auto now = other.decide();
  CHECK((now.to_do == what::compute && now.first == 0 && now.last == 8));
  CHECK(other.is_last(now.last));
  CHECK(other.decide().to_do == what::wait); // one job at a time
  CHECK(other.job_done().empty());
  CHECK(other.decide().to_do == what::finish);
  CHECK(other.end(false).empty());
  CHECK(other.may_begin());
}

TEST_CASE("a step without logits ends before the output, and does not ask for its streamed groups") {
  auto r = ready(groups(some_streamed));
  r.begin(false);
  (void)r.start();
  CHECK(numbers(r.questions()) == std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6});
  r.end(true);
  r.begin(true);
  (void)r.start();
  // Resident groups are on their way already; the streamed ones of the step that was given up are asked for anew.
  CHECK(numbers(r.questions()) == std::vector<std::size_t>{1, 3, 4, 7});
}

TEST_CASE("a streamed group ends its job, and is given back when that is done") {
  auto r = ready(groups(some_streamed));
  r.begin(true);
  (void)r.start();
  bring_all(r);
  std::vector<std::pair<std::size_t, std::size_t>> jobs;
  std::vector<std::size_t> released;
  for (auto now = r.decide(); now.to_do == what::compute; now = r.decide()) {
    jobs.emplace_back(now.first, now.last);
    const auto back = r.job_done();
    released.insert(released.end(), back.begin(), back.end());
  }
  CHECK(jobs == std::vector<std::pair<std::size_t, std::size_t>>{{0, 2}, {2, 4}, {4, 5}, {5, 8}});
  CHECK(released == std::vector<std::size_t>{1, 3, 4, 7});
  CHECK(r.is_there(0));
  CHECK_FALSE(r.is_there(1));
}

TEST_CASE("rows of an embedding on disk are looked up, and the step waits for them") {
  auto g = groups(all_resident, std::vector<bool>(8, true));
  g.embedding_on_disk = true;
  auto r = ready(g);
  r.begin(true);
  const auto lookup = r.start();
  REQUIRE(lookup);
  CHECK(r.decide().to_do == what::wait);
  CHECK_FALSE(r.rows_arrived({lookup->epoch, *lookup->step + 1}));
  CHECK(r.decide().to_do == what::wait);
  CHECK(r.rows_arrived(*lookup));
  CHECK(r.decide().to_do == what::compute);
  r.suspend(); // in the middle of the step: the rows have been used
  r.resume(groups(all_resident, std::vector<bool>(8, true)));
  CHECK_FALSE(r.start());
  CHECK_FALSE(r.rows_arrived(*lookup));

  auto failing = ready(g);
  failing.begin(true);
  const auto refused = failing.start();
  CHECK(failing.rows_failed(*refused, error(errc::io_error, "no rows")));
  CHECK(failing.decide().to_do == what::give_up);
  CHECK(std::string(failing.failure().what()) == "no rows");
}

TEST_CASE("a group that can't be had fails the step, and is asked for again by the next one") {
  auto r = ready(groups(all_resident));
  r.begin(true);
  (void)r.start();
  for (const auto& q : r.questions())
    if (q.group == 3)
      CHECK(r.failed(q.group, q.stamp, error(errc::io_error, "the disk")));
    else
      CHECK(r.arrived(q.group, q.stamp));
  CHECK(r.decide().to_do == what::give_up);
  CHECK(std::string(r.failure().what()) == "the disk");
  r.end(true);
  r.begin(true);
  (void)r.start();
  CHECK(numbers(r.questions()) == std::vector<std::size_t>{3});
}

TEST_CASE("answers to a step that is over, or of a pipeline that was left, come too late") {
  auto r = ready(groups(some_streamed));
  r.begin(true);
  (void)r.start();
  const auto asked = r.questions();
  r.end(true);
  for (const auto& q : asked)
    CHECK(r.arrived(q.group, q.stamp) == !some_streamed[q.group]); // resident groups are still wanted
  r.suspend();
  r.resume(groups(some_streamed));
  for (const auto& q : asked) {
    CHECK_FALSE(r.arrived(q.group, q.stamp));
    CHECK_FALSE(r.failed(q.group, q.stamp, error(errc::io_error, "late")));
    CHECK_FALSE(r.is_there(q.group));
  }
}

TEST_CASE("compute stands still between jobs, and for another placement between steps") {
  auto r = ready(groups(all_resident, std::vector<bool>(8, true)));
  CHECK(r.may_suspend(true));
  r.begin(true);
  (void)r.start();
  CHECK(r.may_suspend(false));
  CHECK_FALSE(r.may_suspend(true));
  CHECK(r.decide().to_do == what::compute);
  CHECK_FALSE(r.may_suspend(false));
  (void)r.job_done();
  r.suspend();
  CHECK(r.decide().to_do == what::wait);
  CHECK(r.questions().empty());
  r.resume(groups(all_resident));
  (void)r.start();
  CHECK(r.decide().to_do == what::finish); // all of its groups were computed before
}

TEST_CASE("a device that is not the last hands the step on, once") {
  auto r = ready(groups(all_resident, std::vector<bool>(8, true)), true);
  r.begin(true);
  (void)r.start();
  CHECK(r.decide().to_do == what::compute);
  (void)r.job_done();
  CHECK(r.decide().to_do == what::hand_on);
  CHECK(r.decide().to_do == what::wait);
  CHECK_FALSE(r.may_suspend(true));
  (void)r.end(false);
  CHECK(r.may_begin());
}

TEST_CASE("a job that could not be enqueued is not waited for") {
  auto r = ready(groups(all_resident, std::vector<bool>(8, true)));
  r.begin(true);
  (void)r.start();
  CHECK(r.decide().to_do == what::compute);
  r.not_enqueued();
  CHECK(r.may_suspend(false));
  (void)r.end(true);
  CHECK(r.may_begin());
}

TEST_CASE("in any order of arrival, loss and standing still each step computes each group once, in order") {
  std::mt19937 random(17);
  const auto chance = [&](unsigned of) { return random() % of == 0; };
  for (int round = 0; round < 300; ++round) {
    std::vector<bool> streamed(8);
    std::generate(streamed.begin(), streamed.end(), [&] { return chance(2); });
    const bool on_disk = chance(3);
    streamed[0] = streamed[0] && !on_disk;
    auto g = groups(streamed);
    g.embedding_on_disk = on_disk;
    g.there[0] = on_disk; // the group has no bytes then
    const auto fresh = g;
    step_runner r(g, false);
    bool job_out = true, wants_rows = false;
    std::vector<step_runner::question> under_way;
    std::optional<step_runner::ticket> rows;
    std::size_t computed = 0, finished = 0, output = 0;
    std::vector<bool> held(8); // streamed groups that were handed out
    const auto ask = [&] {
      for (const auto& q : r.questions())
        under_way.push_back(q);
    };
    const auto start = [&] {
      rows = r.start();
      wants_rows = rows.has_value();
      ask();
    };
    for (int event = 0; event < 400 || r.in_step(); ++event) {
      REQUIRE(event < 5000);          // nothing stands still for ever
      const bool calm = event >= 400; // no more losses: what is under way has to end
      switch (random() % 6) {
      case 0:
        if (r.may_begin() && !calm) {
          output = chance(3) ? 5 : 8;
          computed = 0;
          r.begin(output == 8);
          if (!r.suspended())
            start();
        }
        break;
      case 1:
      case 2:
        if (!under_way.empty()) {
          const auto at = under_way.begin() + static_cast<std::ptrdiff_t>(random() % under_way.size());
          const auto q = *at;
          under_way.erase(at);
          if (!calm && chance(12)) {
            (void)r.failed(q.group, q.stamp, error(errc::io_error, "lost"));
          } else if (r.arrived(q.group, q.stamp)) {
            REQUIRE(r.is_there(q.group));
            REQUIRE_FALSE(held[q.group]);
            held[q.group] = true;
          }
        }
        if (rows && wants_rows && chance(2)) {
          (void)r.rows_arrived(*rows);
          wants_rows = false;
        }
        break;
      case 3:
        if (job_out) {
          const bool inherited = r.inherits();
          job_out = false;
          for (const auto back : r.job_done()) {
            REQUIRE_FALSE(inherited);
            REQUIRE((streamed[back] && held[back] && back < computed));
            held[back] = false;
          }
        }
        break;
      case 4:
        if (!calm && chance(4) && r.may_suspend(false) && !r.suspended()) {
          r.suspend();
          held.assign(8, false);
        } else if (r.suspended()) {
          r.resume(fresh);
          r.in_step() ? start() : ask();
        }
        break;
      default:
        break;
      }
      const auto now = r.decide();
      if (now.to_do == what::compute) {
        REQUIRE_FALSE(job_out);
        REQUIRE_FALSE(r.suspended());
        REQUIRE(now.first == computed);
        REQUIRE(now.last > now.first);
        for (std::size_t i = now.first; i < now.last; ++i)
          REQUIRE(r.is_there(i));
        computed = now.last;
        job_out = true;
      } else if (now.to_do == what::finish || now.to_do == what::give_up) {
        if (now.to_do == what::finish) {
          REQUIRE(computed == output);
          ++finished;
        }
        for (const auto dropped : r.end(now.to_do == what::give_up))
          held[dropped] = false;
        for (std::size_t i = 0; i < 8; ++i)
          REQUIRE_FALSE((streamed[i] && r.is_there(i)));
      }
    }
    CHECK(finished > 0);
  }
}
