// Exceptions in an actor's handlers: who asked hears of it, whoever watches gets the reason, and nothing is printed.
#include "tests/support/stand_ins.hpp"

#include <catch2/catch.hpp>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <unistd.h>
#include <utility>

using namespace tropilla;

namespace {

/// How a sampler fails when it is asked.
enum class way { throws, promises_and_throws, throws_in_a_continuation, refuses_memory };

/// What became of its state.
struct record {
  std::atomic<bool> destroyed = false;
  std::string broken_off;
};

struct faulty_sampler {
  static constexpr const char* actor_name = "sampler";
  faulty_sampler(cast::sampler_actor::pointer s, way w, cast::sampler_actor n, std::shared_ptr<record> r)
      : self(s), how(w), next(std::move(n)), seen(std::move(r)) {}
  ~faulty_sampler() { seen->destroyed = true; }

  void broken_off(const error& why) const { seen->broken_off = why.what(); }

  cast::sampler_actor::behavior_type behaviour() {
    return {
        [this](const cast::draw_tokens& m) -> caf::result<cast::tokens_drawn> {
          switch (how) {
          case way::throws:
            throw std::runtime_error("out of breath");
          case way::refuses_memory:
            throw std::bad_alloc();
          case way::promises_and_throws: {
            const cast::owed<cast::tokens_drawn> lost(self);
            throw std::runtime_error("out of breath");
          }
          case way::throws_in_a_continuation:
            kept.emplace_back(self);
            cast::ask(self, next, m)
                .then([](const cast::tokens_drawn&) { throw std::runtime_error("out of breath"); },
                      [](const caf::error&) {});
            return kept.back().later();
          }
          return cast::tokens_drawn{};
        },
    };
  }

  cast::sampler_actor::pointer self;
  way how;
  cast::sampler_actor next;
  std::shared_ptr<record> seen;
  std::vector<cast::owed<cast::tokens_drawn>> kept;
};

/// What goes to standard output while it lives.
class caught_output {
public:
  caught_output() : file_(std::tmpfile()), saved_(::dup(STDOUT_FILENO)) {
    std::fflush(stdout);
    ::dup2(::fileno(file_), STDOUT_FILENO);
  }
  ~caught_output() {
    end();
    std::fclose(file_);
  }
  std::size_t bytes() {
    end();
    std::fseek(file_, 0, SEEK_END);
    return static_cast<std::size_t>(std::ftell(file_));
  }

private:
  void end() {
    if (saved_ < 0)
      return;
    std::fflush(stdout);
    ::dup2(std::exchange(saved_, -1), STDOUT_FILENO);
  }
  std::FILE* file_;
  int saved_;
};

} // namespace

TEST_CASE("a handler that throws ends its actor, and whoever asked hears that it is gone") {
  const auto how = GENERATE(way::throws, way::promises_and_throws, way::throws_in_a_continuation, way::refuses_memory);
  std::string reason;
  const auto seen = std::make_shared<record>();
  std::size_t printed = 0;
  bool gone = false;
  {
    caught_output output;
    {
      cast::system system;
      const auto sound = cast::spawn<cast::sampler_actor, testing::stand_in_sampler>(
          system.get(), std::make_shared<testing::stand_in>());
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
    printed = output.bytes();
  }
  CHECK(gone);
  CHECK(printed == 0);
  CHECK(seen->destroyed);
  CHECK(seen->broken_off == reason);
  if (how == way::refuses_memory)
    CHECK_THAT(reason, Catch::StartsWith("the system refused memory"));
  else
    CHECK(reason == "out of breath");
}

TEST_CASE("what is insisted on is tried again while memory is refused, and for a second") {
  std::size_t tries = 0;
  CHECK(cast::insist([&] {
          if (++tries < 5)
            throw std::bad_alloc();
          return tries;
        }) == 5);
  CHECK_THROWS_AS(cast::insist([]() -> int { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK_THROWS_AS(cast::insist([]() -> int { throw std::bad_alloc(); }), std::bad_alloc);
}
