// The state machine of compute, one case at a time: what is done at once, and when it stands still, without a device.
#include "src/schedule/step_runner.hpp"

#include "tests/unit/schedule/action_list.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using testing::list;
using testing::name_of;
using testing::placement_named;

namespace {

const auto a = placement_named("A"), b = placement_named("B"), c = placement_named("C");

/// Embedding, four layers, norm and two tiles of the head; `streamed` layers.
step_groups groups(std::vector<bool> streamed, bool present = false, suspensions::placement of = a) {
  const std::size_t count = streamed.size();
  return {std::move(streamed), std::vector<bool>(count, present), 0, count, 5, false, std::move(of)};
}

const std::vector<bool> all_resident(8, false);
const std::vector<bool> some_streamed{false, true, false, true, true, false, false, true};

/// Does what the runner says as compute would, writes it down, and keeps what was asked for.
class compute_on_paper {
public:
  using r = step_runner;

  explicit compute_on_paper(step_groups g, bool hands_on = false) : runner(std::move(g), hands_on) {}

  /// All that is done until the runner waits.
  list go_on() {
    list out;
    while (const auto todo = runner.decide())
      out.push_back(std::visit([this](const auto& each) { return act(each); }, *todo));
    return out;
  }
  list begin(bool with_logits = true) {
    runner.step_wanted(with_logits);
    return go_on();
  }
  list suspend(const suspensions::placement& next_placement) {
    runner.suspension_wanted(next_placement);
    return go_on();
  }
  list resume(step_groups groups) {
    runner.resume(std::move(groups));
    return go_on();
  }
  /// The job is done. `given_back`: what its streamed groups are.
  list job_done(const std::vector<std::size_t>& given_back = {}) {
    CHECK(runner.job_done() == given_back);
    return go_on();
  }
  void bring_all() {
    for (const auto& q : std::exchange(asked, {}))
      REQUIRE(runner.arrived(q.group, q.tag));
  }
  /// A group that was asked for can't be had.
  list lose(std::size_t group, const char* why) {
    for (const auto& q : asked)
      if (q.group == group)
        CHECK(runner.failed(group, q.tag, error(errc::io_error, why)));
    return go_on();
  }

  step_runner runner;
  std::vector<r::group_request> asked;
  std::optional<r::request_tag> lookup;

private:
  std::string act(const r::suspend& s) { return "suspend for " + name_of(s.next_placement); }
  std::string act(const r::tell_residents&) { return "residents are there"; }
  std::string act(const r::refuse_residents& s) { return std::string("no residents: ") + s.why.what(); }
  std::string act(const r::begin&) { return "begin"; }
  std::string act(const r::announce& s) {
    lookup = s.lookup;
    return std::string("announce") + (s.with_logits ? "" : " without logits") + (lookup ? ", look up" : "");
  }
  std::string act(const r::ask& s) {
    std::string out = "ask";
    for (const auto& q : s.requests) {
      out += " " + std::to_string(q.group);
      asked.push_back(q);
    }
    return out;
  }
  std::string act(const r::compute& s) {
    return "compute " + std::to_string(s.first) + " to " + std::to_string(s.last) + (s.ends_step ? ", the last" : "");
  }
  std::string act(const r::hand_on&) { return "hand on"; }
  std::string act(const r::finish&) {
    CHECK(runner.end(false).empty());
    return "finish";
  }
  std::string act(const r::give_up& s) {
    dropped = runner.end(true);
    return std::string("give up: ") + s.why.what();
  }

public:
  std::vector<std::size_t> dropped; ///< by the step that was given up last
};

/// The predecessor's job is done, and what is resident is present.
compute_on_paper ready(const std::vector<bool>& streamed = all_resident, bool hands_on = false) {
  compute_on_paper out(groups(streamed), hands_on);
  (void)out.go_on();
  out.bring_all();
  CHECK(out.job_done().empty());
  return out;
}

} // namespace

TEST_CASE("a step of resident groups is one job") {
  compute_on_paper d(groups(all_resident));
  CHECK(d.go_on() == list{"ask 0 1 2 3 4 5 6 7"});
  CHECK(d.go_on().empty()); // asked for once
  d.bring_all();
  CHECK(d.runner.waits_for_predecessor());
  CHECK(d.begin().empty()); // the job of the compute before this one is in flight
  CHECK(d.job_done() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.go_on().empty()); // one job at a time
  CHECK(d.job_done() == list{"finish"});
  CHECK_FALSE(d.runner.in_step());
}

TEST_CASE("steps wait in line, and one follows the other") {
  auto d = ready();
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.begin(false).empty());
  CHECK(d.begin().empty());
  CHECK(d.job_done() == list{"finish", "begin", "announce without logits", "compute 0 to 5, the last"});
  CHECK(d.job_done() == list{"finish", "begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.job_done() == list{"finish"});
}

TEST_CASE("a step that other devices compute, too, ends when all of them have") {
  auto d = ready();
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  d.runner.others_asked(2);
  d.runner.other_done();
  CHECK(d.job_done().empty());
  CHECK(d.runner.step_failure() == nullptr);
  d.runner.other_done();
  CHECK(d.go_on() == list{"finish"});
  // Those of the next step may be done before this device is.
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  d.runner.others_asked(1);
  d.runner.other_done();
  CHECK(d.job_done() == list{"finish"});
}

TEST_CASE("a step is handed on when all devices have computed their shares of it") {
  auto d = ready(all_resident, true);
  (void)d.begin();
  d.runner.others_asked(1);
  CHECK(d.job_done().empty());
  d.runner.other_done();
  CHECK(d.go_on() == list{"hand on"});
}

TEST_CASE("what another device can't compute is given up when all have answered, with its reason") {
  auto d = ready();
  (void)d.begin();
  d.runner.others_asked(2);
  d.runner.other_failed(error(errc::io_error, "its disk"));
  CHECK(d.runner.step_failure() != nullptr);
  CHECK(d.go_on().empty()); // its own job is in flight
  CHECK(d.job_done().empty());
  d.runner.other_failed(error(errc::device_failed, "the group failed")); // which is what follows
  CHECK(d.go_on() == list{"give up: its disk"});
  CHECK(d.runner.step_failure() == nullptr);
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.job_done() == list{"finish"});
}

TEST_CASE("a step of which this device lacks a group waits for the others before it is given up") {
  compute_on_paper d(groups(some_streamed));
  CHECK(d.go_on() == list{"ask 0 2 5 6"});
  CHECK(d.job_done().empty());
  (void)d.begin();
  d.runner.others_asked(1);
  CHECK(d.lose(1, "the disk").empty());
  REQUIRE(d.runner.step_failure() != nullptr);
  CHECK(d.runner.step_failure()->what() == std::string("the disk"));
  d.runner.other_failed(error(errc::device_failed, "the group failed"));
  CHECK(d.go_on() == list{"give up: the disk"});
}

TEST_CASE("a step without logits ends before the output, and does not ask for its streamed groups") {
  compute_on_paper d(groups(some_streamed));
  CHECK(d.go_on() == list{"ask 0 2 5 6"});
  CHECK(d.job_done().empty());
  CHECK(d.begin(false) == list{"begin", "announce without logits", "ask 1 3 4"});
  CHECK(d.lose(1, "the disk") == list{"give up: the disk"});
  // Resident groups are in flight already; the streamed ones of the step that was given up are asked for anew.
  CHECK(d.begin() == list{"begin", "announce", "ask 1 3 4 7"});
}

TEST_CASE("a streamed group ends its job, and is given back when that is done") {
  auto d = ready(some_streamed);
  CHECK(d.begin() == list{"begin", "announce", "ask 1 3 4 7", "compute 0 to 1"});
  d.bring_all();
  CHECK(d.job_done() == list{"compute 1 to 2"});
  CHECK(d.job_done({1}) == list{"compute 2 to 4"});
  CHECK(d.job_done({3}) == list{"compute 4 to 5"});
  CHECK(d.job_done({4}) == list{"compute 5 to 8, the last"});
  CHECK(d.job_done({7}) == list{"finish"});
  CHECK(d.runner.is_present(0));
  CHECK_FALSE(d.runner.is_present(1));
}

TEST_CASE("rows of an embedding on disk are looked up, and the step waits for them") {
  auto g = groups(all_resident, true);
  g.embedding_on_disk = true;
  compute_on_paper d(g);
  CHECK(d.job_done().empty());
  CHECK(d.begin() == list{"begin", "announce, look up"});
  const auto lookup = d.lookup;
  REQUIRE(lookup);
  SECTION("they come") {
    CHECK_FALSE(d.runner.embedding_arrived({lookup->epoch, *lookup->step + 1}));
    CHECK(d.go_on().empty());
    CHECK(d.runner.embedding_arrived(*lookup));
    CHECK(d.go_on() == list{"compute 0 to 8, the last"});
    CHECK(d.suspend(a).empty());
    CHECK(d.job_done() == list{"suspend for A"});
    CHECK(d.resume(g) == list{"announce", "finish"}); // the rows have been used
    CHECK_FALSE(d.runner.embedding_arrived(*lookup));
  }
  SECTION("they can't be had") {
    CHECK(d.runner.embedding_failed(*lookup, error(errc::io_error, "no rows")));
    CHECK(d.go_on() == list{"give up: no rows"});
    CHECK_FALSE(d.runner.embedding_failed(*lookup, error(errc::io_error, "late")));
  }
}

TEST_CASE("a group that can't be had fails the step, and is asked for again by the next one") {
  compute_on_paper d(groups(all_resident));
  CHECK(d.job_done() == list{"ask 0 1 2 3 4 5 6 7"});
  CHECK(d.begin() == list{"begin", "announce"});
  CHECK(d.lose(3, "the disk") == list{"give up: the disk"});
  CHECK(d.begin() == list{"begin", "announce", "ask 3"});
}

TEST_CASE("a step that is given up drops the streamed groups that are there") {
  auto d = ready(some_streamed);
  (void)d.begin();
  for (const auto& q : d.asked)
    if (q.group == 3 || q.group == 7)
      CHECK(d.runner.arrived(q.group, q.tag));
  CHECK(d.lose(1, "the disk").empty()); // the first group is still computed
  CHECK(d.job_done() == list{"give up: the disk"});
  CHECK(d.dropped == std::vector<std::size_t>{3, 7});
  CHECK_FALSE(d.runner.is_present(3));
}

TEST_CASE("answers to a step that is over, or of a pipeline that was left, come too late") {
  compute_on_paper d(groups(some_streamed));
  (void)d.job_done();
  (void)d.begin();
  const auto asked = d.asked;
  d.runner.fail(error(errc::io_error, "a copy"));
  CHECK(d.go_on() == list{"give up: a copy"});
  for (const auto& q : asked)
    CHECK(d.runner.arrived(q.group, q.tag) == !some_streamed[q.group]); // resident groups are still wanted
  CHECK(d.suspend(a) == list{"suspend for A"});
  CHECK(d.resume(groups(some_streamed)) == list{"ask 0 2 5 6"});
  for (const auto& q : asked) {
    CHECK_FALSE(d.runner.arrived(q.group, q.tag));
    CHECK_FALSE(d.runner.failed(q.group, q.tag, error(errc::io_error, "late")));
    CHECK_FALSE(d.runner.is_present(q.group));
  }
}

TEST_CASE("those who wait for resident groups hear when all are there, or that one can't be had") {
  compute_on_paper d(groups(some_streamed));
  d.runner.residents_wanted();
  CHECK(d.go_on() == list{"ask 0 2 5 6"});
  SECTION("all come") {
    d.bring_all();
    CHECK(d.go_on() == list{"residents are there"});
    CHECK(d.go_on().empty());
    d.runner.residents_wanted(); // while a job is in flight, too
    CHECK(d.go_on() == list{"residents are there"});
  }
  SECTION("one fails, and is asked for again when it is wanted again") {
    CHECK(d.lose(2, "the disk") == list{"no residents: the disk"});
    CHECK(d.lose(5, "the disk").empty()); // nobody waits any more
    d.runner.residents_wanted();
    CHECK(d.go_on() == list{"ask 2 5"});
  }
  SECTION("they are told before the step that waits for them goes on, or fails") {
    (void)d.job_done();
    CHECK(d.begin(false) == list{"begin", "announce without logits", "ask 1 3 4"});
    SECTION("it goes on") {
      d.bring_all();
      CHECK(d.go_on() == list{"residents are there", "compute 0 to 2"});
    }
    SECTION("it fails") {
      CHECK(d.lose(2, "the disk") == list{"no residents: the disk", "give up: the disk"});
    }
  }
}

TEST_CASE("they wait while compute stands still") {
  auto d = ready();
  CHECK(d.suspend(a) == list{"suspend for A"});
  d.runner.residents_wanted();
  CHECK(d.go_on().empty());
  CHECK(d.resume(groups(all_resident, true)) == list{"residents are there"});
}

TEST_CASE("compute stands still between jobs, and for another placement between steps") {
  auto d = ready();
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.suspend(b).empty());
  CHECK(d.suspend(a).empty());
  CHECK(d.begin().empty());
  CHECK(d.job_done() == list{"suspend for A"});
  CHECK(d.go_on().empty());
  // What a resumed step needs is brought first: all of this one's groups were computed before.
  CHECK(d.resume(groups(all_resident)) == list{"announce", "ask 0 1 2 3 4 5 6 7", "finish", "suspend for B"});
  CHECK(d.begin().empty());
  CHECK(d.resume(groups(all_resident, true, b)) == list{"begin", "announce", "compute 0 to 8, the last"});
}

TEST_CASE("a step that waits for its groups does not keep compute from standing still, and goes on where it stood") {
  auto d = ready(some_streamed);
  CHECK(d.begin() == list{"begin", "announce", "ask 1 3 4 7", "compute 0 to 1"});
  CHECK(d.runner.arrived(1, d.asked.front().tag));
  CHECK(d.job_done() == list{"compute 1 to 2"});
  CHECK(d.job_done({1}) == list{"compute 2 to 3"});
  CHECK(d.job_done().empty());
  CHECK(d.suspend(b).empty());
  CHECK(d.suspend(a) == list{"suspend for A"});
  d.asked.clear();
  CHECK(d.resume(groups(some_streamed)) == list{"announce", "ask 0 2 3 4 5 6 7"});
  d.bring_all();
  CHECK(d.go_on() == list{"compute 3 to 4"});
}

TEST_CASE("the next suspension that is due follows as soon as compute was resumed") {
  auto d = ready();
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.suspend(b).empty());
  CHECK(d.suspend(c).empty());
  CHECK(d.begin().empty());
  CHECK(d.job_done() == list{"finish", "suspend for B"});
  CHECK(d.resume(groups(all_resident, false, b)) == list{"suspend for C"});
  CHECK(d.resume(groups(all_resident, true, c)) == list{"begin", "announce", "compute 0 to 8, the last"});
}

TEST_CASE("a device that is not the last hands the step on, once") {
  auto d = ready(all_resident, true);
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  CHECK(d.job_done() == list{"hand on"});
  CHECK(d.go_on().empty());
  CHECK(d.suspend(b).empty());
  CHECK(d.begin().empty());
  CHECK(d.runner.end(false).empty());
  CHECK(d.go_on() == list{"suspend for B"});
}

TEST_CASE("a step that is handed on gets its answer while compute stands still, too") {
  auto d = ready(all_resident, true);
  (void)d.begin();
  CHECK(d.job_done() == list{"hand on"});
  CHECK(d.suspend(a) == list{"suspend for A"});
  CHECK(d.runner.end(false).empty());
  CHECK(d.resume(groups(all_resident)) == list{"ask 0 1 2 3 4 5 6 7"});
}

TEST_CASE("what can't be done fails the step, and no job is waited for") {
  auto d = ready();
  const error why(errc::device_failed, "a copy");
  SECTION("a job can't be enqueued") {
    CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
  }
  SECTION("the device broke, though all is computed") {
    (void)d.begin();
    REQUIRE(d.runner.job_done().empty());
    CHECK(d.runner.may_go_on());
  }
  SECTION("the step can't be handed on") {
    d = ready(all_resident, true);
    (void)d.begin();
    CHECK(d.job_done() == list{"hand on"});
  }
  d.runner.fail(why);
  CHECK(d.go_on() == list{"give up: a copy"});
  CHECK(d.begin() == list{"begin", "announce", "compute 0 to 8, the last"});
}
