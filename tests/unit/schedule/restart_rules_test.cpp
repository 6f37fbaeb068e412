// What a supervisor is to do when members end, in the order in which it hears of it: one case at a time.
#include "tests/unit/schedule/action_list.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using testing::leases;
using testing::list;
using testing::placement_named;
using testing::said;

namespace {

/// Rules of a device with placement A, which are told what happens and say what is to be done.
class rules_of_device {
public:
  list sampler_down() { return say(rules.member_ended(0, "sampler", "killed", progress)); }
  list down(const std::string& member) { return say(rules.pipeline_member_ended(member, "killed", progress)); }
  list compute_ended() { return say(rules.compute_ended("killed", progress)); }
  list change(const restart_rules::placement& next) { return say(rules.change(next)); }
  list suspended(const restart_rules::placement& next, std::size_t kept) {
    return say(rules.suspended(next, leases(kept)));
  }
  list pipeline_spawned() { return say(rules.pipeline_spawned()); }
  list compute_spawned() { return say(rules.compute_spawned()); }
  list spawn_failed() { return say(rules.spawn_failed(error(errc::over_budget, "no bytes"))); }
  /// The pipeline was stopped: all but the last say that they are gone.
  void two_are_gone() {
    CHECK(down("memory manager").empty());
    CHECK(down("loader").empty());
  }

  const restart_rules::placement a = placement_named("A"), b = placement_named("B"), c = placement_named("C");
  restart_rules rules{"host:0", a};
  std::uint64_t progress = 1;

private:
  list say(const restart_rules::actions& todo) const { return said(todo, rules); }
};

const std::string given_up = "the loader ended unexpectedly (killed); open the runtime again";

} // namespace

TEST_CASE("a member is replaced eight times without progress, and not a ninth time") {
  rules_of_device d;
  for (std::size_t i = 1; i <= restart_limit::max; ++i)
    CHECK(d.sampler_down() ==
          list{"log restart " + std::to_string(i) + " of sampler: killed", "replace member 0", "tell: replaced"});
  CHECK(d.rules.restarts() == restart_limit::max);
  CHECK(d.rules.down().empty());
  CHECK(d.sampler_down() == list{"tell: sampler is down: killed",
                                 "give up member 0: the sampler ended unexpectedly (killed) again and "
                                 "again; open the runtime again"});
  CHECK(d.rules.restarts() == restart_limit::max);
  CHECK(d.rules.down() == list{"sampler: killed"});
}

TEST_CASE("progress allows as many restarts again") {
  rules_of_device d;
  for (std::size_t i = 0; i < 3 * restart_limit::max; ++i) {
    if (i % restart_limit::max == 0)
      ++d.progress;
    CHECK(d.sampler_down().size() == 3);
  }
  CHECK(d.rules.down().empty());
  CHECK(d.sampler_down().size() == 2);
}

TEST_CASE("members, the weight pipeline and compute share one limit") {
  rules_of_device d;
  for (std::size_t i = 0; i < restart_limit::max; ++i)
    (void)d.sampler_down();
  SECTION("the pipeline") {
    CHECK(d.down("loader") == list{"tell: loader is down: killed", "close compute: " + given_up});
    CHECK(d.rules.down() == list{"loader: killed"});
  }
  SECTION("compute") {
    CHECK(d.compute_ended() == list{"tell: compute is down: killed",
                                    "close compute: the compute ended unexpectedly (killed); open the runtime again"});
  }
}

TEST_CASE("compute is suspended, the pipeline stopped, and a new one spawned when all three members are gone") {
  rules_of_device d;
  CHECK(d.down("loader") == list{"log restart 1 of loader of host:0: killed", "suspend for A"});
  CHECK(d.suspended(d.a, 2) == list{"stop pipeline"});
  CHECK(d.down("prefetcher").empty());
  CHECK(d.down("memory manager") == list{"spawn pipeline for A, 2 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with A, 2 kept"});
  CHECK(d.rules.kept().empty());
  CHECK(d.rules.restarts() == 1);
  CHECK(d.down("loader") == list{"log restart 2 of loader of host:0: killed", "suspend for A"}); // as the first time
}

TEST_CASE("members that end before compute stands still count once, and the pipeline follows at once") {
  rules_of_device d;
  (void)d.down("loader");
  CHECK(d.down("memory manager").empty());
  CHECK(d.down("prefetcher").empty());
  CHECK(d.suspended(d.a, 1) == list{"stop pipeline", "spawn pipeline for A, 1 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with A, 1 kept"});
  CHECK(d.rules.restarts() == 1);
}

TEST_CASE("compute that ends is spawned behind a new pipeline, and nothing is kept") {
  rules_of_device d;
  CHECK(d.compute_ended() == list{"log restart 1 of compute of host:0: killed", "stop pipeline"});
  d.two_are_gone();
  CHECK(d.down("prefetcher") == list{"spawn pipeline for A, 0 kept"});
  CHECK(d.pipeline_spawned() == list{"spawn compute"});
  CHECK(d.compute_spawned() == list{"tell: replaced"});
  CHECK(d.rules.restarts() == 1);
}

TEST_CASE("compute may end in the middle of the pipeline's restart") {
  rules_of_device d;
  (void)d.down("loader");
  SECTION("before it stands still") {
    CHECK(d.compute_ended() == list{"log restart 2 of compute of host:0: killed", "stop pipeline"});
    CHECK(d.suspended(d.a, 2).empty()); // an answer that was in flight
    CHECK(d.rules.kept().empty());
    CHECK(d.down("memory manager").empty());
  }
  SECTION("while the pipeline leaves: what it kept goes at once") {
    (void)d.suspended(d.a, 2);
    CHECK(d.down("memory manager").empty());
    CHECK(d.compute_ended() == list{"log restart 2 of compute of host:0: killed", "stop pipeline"});
    CHECK(d.rules.kept().empty());
  }
  CHECK(d.down("prefetcher") == list{"spawn pipeline for A, 0 kept"});
  CHECK(d.pipeline_spawned() == list{"spawn compute"});
  CHECK(d.compute_spawned() == list{"tell: replaced"});
}

TEST_CASE("compute that ends when no member of the pipeline is left is replaced at once") {
  rules_of_device d;
  for (const char* member : {"loader", "memory manager", "prefetcher"})
    (void)d.down(member);
  CHECK(d.compute_ended() ==
        list{"log restart 2 of compute of host:0: killed", "stop pipeline", "spawn pipeline for A, 0 kept"});
}

TEST_CASE("changes of weights come one after the other, each with what compute kept") {
  rules_of_device d;
  CHECK(d.change(d.b) == list{"suspend for B"});
  CHECK(d.change(d.c).empty());
  CHECK(d.suspended(d.b, 2) == list{"stop pipeline"});
  d.two_are_gone();
  CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 2 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with B, 2 kept", "answer: changed", "suspend for C"});
  CHECK(d.suspended(d.c, 1) == list{"stop pipeline"});
  d.two_are_gone();
  CHECK(d.down("prefetcher") == list{"spawn pipeline for C, 1 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with C, 1 kept", "answer: changed"});
  CHECK(d.rules.restarts() == 0);
  CHECK(d.down("loader") == list{"log restart 1 of loader of host:0: killed", "suspend for C"}); // that is current
}

TEST_CASE("a change that is refused leaves the placement before, and is answered with the refusal") {
  rules_of_device d;
  (void)d.change(d.b);
  (void)d.change(d.c);
  (void)d.suspended(d.b, 2);
  d.two_are_gone();
  CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 2 kept"});
  CHECK(d.spawn_failed() == list{"log refusal: no bytes", "spawn pipeline for A, 0 kept"});
  SECTION("and the next change begins, with no refusal") {
    CHECK(d.pipeline_spawned() == list{"resume with A, 0 kept", "answer: no bytes", "suspend for C"});
    CHECK(d.rules.down().empty());
    (void)d.suspended(d.c, 1);
    d.two_are_gone();
    (void)d.down("prefetcher");
    CHECK(d.pipeline_spawned() == list{"resume with C, 1 kept", "answer: changed"});
  }
  SECTION("unless there is no pipeline for that either") {
    const std::string why = "the weight pipeline ended unexpectedly (no bytes); open the runtime again";
    CHECK(d.spawn_failed() ==
          list{"tell: weight pipeline is down: no bytes", "close compute: " + why, "answer: " + why, "answer: " + why});
  }
}

TEST_CASE("a change that comes while the pipeline restarts waits for it, or takes its place") {
  rules_of_device d;
  (void)d.down("loader");
  CHECK(d.change(d.b) == list{"suspend for B"}); // compute answers both, one after the other
  CHECK(d.suspended(d.a, 2) == list{"stop pipeline"});
  CHECK(d.down("memory manager").empty());
  SECTION("it waits") {
    CHECK(d.down("prefetcher") == list{"spawn pipeline for A, 2 kept"});
    CHECK(d.pipeline_spawned() == list{"resume with A, 2 kept"});
    CHECK(d.suspended(d.b, 1) == list{"stop pipeline"});
    d.two_are_gone();
    CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 1 kept"});
    CHECK(d.pipeline_spawned() == list{"resume with B, 1 kept", "answer: changed"});
  }
  SECTION("compute answers while it stands still") {
    CHECK(d.suspended(d.b, 0) == list{"stop pipeline"});
    CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 0 kept"});
    CHECK(d.pipeline_spawned() == list{"resume with B, 0 kept", "answer: changed"});
  }
}

TEST_CASE("a suspension that a change has overtaken is not waited for") {
  rules_of_device d;
  (void)d.change(d.b);
  CHECK(d.down("loader") == list{"log restart 1 of loader of host:0: killed", "suspend for A"});
  CHECK(d.suspended(d.b, 2) == list{"stop pipeline"});
  CHECK(d.down("memory manager").empty());
  CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 2 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with B, 2 kept", "answer: changed"});
  CHECK(d.suspended(d.a, 0).empty()); // compute answered while it stood still, and was resumed since
  CHECK(d.down("loader") == list{"log restart 2 of loader of host:0: killed", "suspend for B"});
  CHECK(d.suspended(d.b, 2) == list{"stop pipeline"});
}

TEST_CASE("a change whose suspension is answered before that of a restart is not lost") {
  rules_of_device d;
  (void)d.change(d.b);
  (void)d.down("loader");
  CHECK(d.suspended(d.b, 2) == list{"stop pipeline"});
  CHECK(d.suspended(d.a, 0).empty()); // compute stands still, and answers others at once
  CHECK(d.down("memory manager").empty());
  CHECK(d.down("prefetcher") == list{"spawn pipeline for B, 2 kept"});
  CHECK(d.pipeline_spawned() == list{"resume with B, 2 kept", "answer: changed"});
}

TEST_CASE("compute that stands still after the pipeline was given up gets none") {
  rules_of_device d;
  for (std::size_t i = 0; i < restart_limit::max; ++i)
    (void)d.sampler_down();
  (void)d.change(d.b);
  for (const char* member : {"loader", "memory manager", "prefetcher"})
    (void)d.down(member);
  CHECK(d.suspended(d.b, 2).empty());
  CHECK(d.rules.kept().empty());
}

TEST_CASE("a change waits while compute is replaced, and the new compute is suspended for it") {
  rules_of_device d;
  SECTION("a change that was in flight") {
    CHECK(d.change(d.b) == list{"suspend for B"});
    (void)d.compute_ended();
  }
  SECTION("a change that comes meanwhile") {
    (void)d.compute_ended();
    CHECK(d.change(d.b).empty());
  }
  d.two_are_gone();
  CHECK(d.down("prefetcher") == list{"spawn pipeline for A, 0 kept"});
  CHECK(d.pipeline_spawned() == list{"spawn compute"});
  CHECK(d.compute_spawned() == list{"tell: replaced", "suspend for B"});
  (void)d.suspended(d.b, 2);
  d.two_are_gone();
  (void)d.down("prefetcher");
  CHECK(d.pipeline_spawned() == list{"resume with B, 2 kept", "answer: changed"});
}

TEST_CASE(
    "a pipeline or compute that can't be spawned is given up, and changes get the reason, also those that come later") {
  rules_of_device d;
  const std::string why = "the weight pipeline ended unexpectedly (no bytes); open the runtime again";
  const list expected{"tell: weight pipeline is down: no bytes", "close compute: " + why, "answer: " + why,
                      "answer: " + why};
  (void)d.compute_ended();
  (void)d.change(d.b);
  (void)d.change(d.c);
  d.two_are_gone();
  (void)d.down("prefetcher");
  SECTION("the pipeline") {
    CHECK(d.spawn_failed() == expected);
  }
  SECTION("compute") {
    (void)d.pipeline_spawned();
    CHECK(d.spawn_failed() == expected);
  }
  CHECK(d.change(d.b) == list{"answer: " + why});
  CHECK(d.compute_ended().empty());
  CHECK(d.rules.down() == list{"weight pipeline: no bytes"});
}

TEST_CASE("a pipeline that restarts and can't be spawned is given up, and what was kept goes") {
  rules_of_device d;
  (void)d.down("loader");
  (void)d.suspended(d.a, 2);
  (void)d.down("memory manager");
  (void)d.down("prefetcher");
  CHECK(d.spawn_failed() ==
        list{"tell: weight pipeline is down: no bytes",
             "close compute: the weight pipeline ended unexpectedly (no bytes); open the runtime again"});
  CHECK(d.rules.kept().empty());
}

TEST_CASE("what ends after the pipeline was given up is not replaced") {
  rules_of_device d;
  for (std::size_t i = 0; i < restart_limit::max; ++i)
    (void)d.sampler_down();
  CHECK(d.change(d.b) == list{"suspend for B"});
  CHECK(d.down("loader") == list{"tell: loader is down: killed", "close compute: " + given_up, "answer: " + given_up});
  ++d.progress;
  CHECK(d.down("memory manager").empty());
  CHECK(d.down("prefetcher").empty());
  CHECK(d.compute_ended().empty());
  CHECK(d.sampler_down().size() == 3); // others are
}
