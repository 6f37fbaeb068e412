// Exceptions in an actor's handlers: the actor that asked hears of it, monitors get the reason, and nothing is printed.
#include "tests/support/caught_output.hpp"
#include "tests/support/fake_actors.hpp"

#include <catch2/catch.hpp>
#include <future>
#include <stdexcept>

using namespace tropilla;

namespace {

/// How a sampler fails when it is asked.
enum class way { throws, promises_and_throws, throws_in_a_continuation, refuses_memory };

/// What became of its state.
struct record {
  std::atomic<bool> destroyed = false;
  std::string on_exception;
};

struct faulty_sampler {
  static constexpr const char* actor_name = "sampler";
  faulty_sampler(cast::sampler_actor::pointer s, way w, cast::sampler_actor n, std::shared_ptr<record> r)
      : self(s), how(w), next(std::move(n)), seen(std::move(r)) {}
  ~faulty_sampler() { seen->destroyed = true; }

  void on_exception(const error& why) const { seen->on_exception = why.what(); }

  cast::sampler_actor::behavior_type behaviour() {
    return {
        [this](const cast::draw_tokens& m) -> caf::result<cast::tokens_drawn> {
          switch (how) {
          case way::throws:
            throw std::runtime_error("out of breath");
          case way::refuses_memory:
            throw std::bad_alloc();
          case way::promises_and_throws: {
            const cast::pending_response<cast::tokens_drawn> lost(self);
            throw std::runtime_error("out of breath");
          }
          case way::throws_in_a_continuation:
            kept.emplace_back(self);
            cast::ask(self, next, m)
                .then([](const cast::tokens_drawn&) { throw std::runtime_error("out of breath"); },
                      [](const caf::error&) {});
            return kept.back().promise();
          }
          return cast::tokens_drawn{};
        },
    };
  }

  cast::sampler_actor::pointer self;
  way how;
  cast::sampler_actor next;
  std::shared_ptr<record> seen;
  std::vector<cast::pending_response<cast::tokens_drawn>> kept;
};

} // namespace

TEST_CASE("a handler that throws ends its actor, and the actor that asked hears that it is gone") {
  const auto how = GENERATE(way::throws, way::promises_and_throws, way::throws_in_a_continuation, way::refuses_memory);
  std::string reason;
  const auto seen = std::make_shared<record>();
  std::string printed;
  bool gone = false;
  {
    testing::caught_output output;
    {
      cast::system system;
      const auto sound = cast::spawn<cast::sampler_actor, testing::fake_sampler>(
          system.get(), std::make_shared<testing::fake_script>());
      const auto faulty = cast::spawn<cast::sampler_actor, faulty_sampler>(system.get(), how, sound, seen);
      std::promise<std::string> ended;
      caf::actor_cast<caf::actor>(faulty)->attach_functor(
          [&](const caf::error& why) { ended.set_value(cast::render(why)); });
      try {
        (void)cast::ask_and_wait<cast::tokens_drawn>(system.get(), faulty, cast::draw_tokens{});
      } catch (const cast::member_gone&) {
        gone = true;
      }
      reason = ended.get_future().get();
      cast::end_and_wait(system.get(), sound);
    }
    printed = output.text();
  }
  CHECK(gone);
  CHECK(printed.empty());
  CHECK(seen->destroyed);
  CHECK(seen->on_exception == reason);
  if (how == way::refuses_memory)
    CHECK_THAT(reason, Catch::StartsWith("the system refused memory"));
  else
    CHECK(reason == "out of breath");
}

TEST_CASE("a call is retried while memory is refused, for a second") {
  std::size_t tries = 0;
  CHECK(cast::retry_on_bad_alloc([&] {
          if (++tries < 5)
            throw std::bad_alloc();
          return tries;
        }) == 5);
  CHECK_THROWS_AS(cast::retry_on_bad_alloc([]() -> int { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK_THROWS_AS(cast::retry_on_bad_alloc([]() -> int { throw std::bad_alloc(); }), std::bad_alloc);
}
