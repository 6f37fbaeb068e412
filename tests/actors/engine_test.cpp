// The engine actor in a program's own actor system.
#include "tropilla/actors.hpp"

#include "actors/caf_seam.hpp"
#include "tests/support/tiny_model.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <limits>
#include <mutex>

using namespace tropilla;

namespace {

/// What clients got, to wait on from the test's thread.
struct inbox {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<reply_piece> pieces;
  std::vector<reply_finished> finished;
  std::vector<reply_failed> failed;

  template <class T>
  void add(std::vector<T>& to, const T& m) {
    const std::lock_guard lock(mutex);
    to.push_back(m);
    changed.notify_all();
  }
  template <class Condition>
  void wait(Condition c) {
    std::unique_lock lock(mutex);
    REQUIRE(changed.wait_for(lock, std::chrono::seconds(60), c));
  }
};

/// The argument is passed through CAF and not captured: without any, CAF 0.17 binds a reference to a null tuple.
engine_client spawn_client(caf::actor_system& system, inbox& to) {
  const auto behaviour = [](engine_client::pointer, inbox* box) -> engine_client::behavior_type {
    return {
        [box](const reply_piece& m) { box->add(box->pieces, m); },
        [box](const reply_finished& m) { box->add(box->finished, m); },
        [box](const reply_failed& m) { box->add(box->failed, m); },
    };
  };
  return system.spawn(behaviour, &to);
}

struct registered_messages {
  registered_messages() { register_messages(); }
};

struct own_program : registered_messages { // before the system is made
  caf::actor_system_config config;
  caf::actor_system system{config};
  inbox box; ///< goes after the actors that write to it: see the destructor
  engine_client client = spawn_client(system, box);
  engine_actor engine = spawn_engine(system, {.model = testing::tiny_model(), .threads = 1, .context = 128});

  ~own_program() {
    cast::end_and_wait(system, engine);
    cast::end_and_wait(system, client);
  }

  void ask(std::uint64_t tag, std::vector<token_id> prompt, std::size_t tokens) {
    generate_reply m{client, tag, std::move(prompt), {}};
    m.options.max_tokens = tokens;
    m.options.ignore_eos = true;
    cast::tell_from_outside(engine, m);
  }
  engine_status status() { return cast::ask_and_wait<engine_status>(system, engine, query_engine{}); }

  void wait_until_idle() {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (status().running > 0)
      REQUIRE(std::chrono::steady_clock::now() < limit);
  }
};

/// A reply that only somebody's word ends: neither its length nor the context does.
generate_reply endless(const engine_client& client, std::uint64_t tag) {
  generate_reply m{client, tag, std::vector<token_id>{1, 2, 3}, {}};
  m.options.max_tokens = std::numeric_limits<std::size_t>::max();
  m.options.ignore_eos = true;
  m.options.context_shift = true;
  return m;
}

} // namespace

TEST_CASE("an engine streams a reply to the client actor that asked") {
  own_program p;
  p.ask(7, {1, 2, 3}, 5);
  p.box.wait([&] { return !p.box.finished.empty(); });
  CHECK(p.box.finished[0].tag == 7);
  CHECK(p.box.finished[0].statistics.generated_tokens == 5);
  std::size_t tokens = 0;
  for (const auto& m : p.box.pieces)
    tokens += m.tag == 7 && m.next.id >= 0;
  CHECK(tokens == 5);
  CHECK(p.status().model.layers > 0);
}

TEST_CASE("an engine takes conversations and raw text as well as ids") {
  own_program p;
  generate_reply m{p.client, 1, std::vector<chat_message>{{"user", "hi"}}, {}};
  m.options.max_tokens = 2;
  cast::tell_from_outside(p.engine, m);
  m.tag = 2;
  m.prompt = std::string("some text");
  cast::tell_from_outside(p.engine, m);
  p.box.wait([&] { return p.box.finished.size() == 2; });
  CHECK(p.box.failed.empty());
}

TEST_CASE("what can't run fails with a code and a sentence") {
  own_program p;
  p.ask(1, {}, 5);
  p.ask(2, {1 << 30}, 5);
  cast::tell_from_outside(p.engine, generate_reply{p.client, 3, std::vector<chat_message>{{"wizard", "hi"}}, {}});
  p.box.wait([&] { return p.box.failed.size() == 3; });
  for (const auto& m : p.box.failed) {
    CHECK(m.code == errc::invalid_argument);
    CHECK(m.message.size() > 20);
  }
  p.ask(4, {1, 2}, 2);
  p.box.wait([&] { return p.box.finished.size() == 1; });
}

TEST_CASE("a reply is stopped by its client's word and by its client's end") {
  own_program p;
  cast::tell_from_outside(p.engine, endless(p.client, 1));
  p.box.wait([&] { return !p.box.pieces.empty(); });
  cast::tell_from_outside(p.engine, stop_reply{p.client, 2}); // of no reply: ignored
  CHECK(p.status().running == 1);
  cast::tell_from_outside(p.engine, stop_reply{p.client, 1});
  p.box.wait([&] { return !p.box.finished.empty(); });
  CHECK(p.box.finished[0].tag == 1);
  CHECK(p.box.finished[0].statistics.finish == finish_reason::cancelled);

  inbox other_box;
  const auto other = spawn_client(p.system, other_box);
  for (std::uint64_t tag = 1; tag < 20; ++tag)
    cast::tell_from_outside(p.engine, endless(other, tag));
  other_box.wait([&] { return !other_box.pieces.empty(); });
  CHECK(p.status().running == 19);
  cast::end_and_wait(p.system, other);
  p.wait_until_idle();
  CHECK(other_box.finished.empty());
  p.ask(3, {4, 5}, 2); // the way is free
  p.box.wait([&] { return p.box.finished.size() == 2; });
  CHECK(p.box.finished[1].statistics.finish == finish_reason::length);
  CHECK(p.box.failed.empty());
}

TEST_CASE("opening an engine on a bad model throws") {
  register_messages();
  caf::actor_system_config config;
  caf::actor_system system(config);
  CHECK_THROWS_AS(spawn_engine(system, {.model = "/nonexistent.gguf"}), error);
}

TEST_CASE("a client with a window that deals with nothing gets so many pieces, and one that does gets all") {
  own_program p;
  const auto ask_with_window = [&](std::uint64_t tag, std::size_t window, std::size_t tokens) {
    generate_reply m = endless(p.client, tag);
    m.options.max_tokens = tokens;
    m.window = window;
    cast::tell_from_outside(p.engine, m);
  };
  ask_with_window(1, 10, 60);
  p.box.wait([&] { return !p.box.failed.empty(); });
  CHECK(p.box.failed[0].code == errc::cancelled);
  CHECK(p.box.pieces.size() == 10);

  p.box.pieces.clear();
  cast::tell_from_outside(p.engine, pieces_read{p.client, 1, 5}); // of a reply that is over: ignored
  // A window that leaves this thread a pause while the other ones compute.
  ask_with_window(2, 400, 600);
  std::size_t seen = 0;
  p.box.wait([&] {
    cast::tell_from_outside(p.engine, pieces_read{p.client, 2, p.box.pieces.size() - seen});
    seen = p.box.pieces.size();
    return !p.box.finished.empty() || p.box.failed.size() > 1;
  });
  CHECK(p.box.failed.size() == 1);
  REQUIRE(p.box.finished.size() == 1);
  CHECK(p.box.finished[0].tag == 2);
  CHECK(p.box.finished[0].statistics.finish == finish_reason::length);
  CHECK(std::count_if(p.box.pieces.begin(), p.box.pieces.end(), [](const auto& m) { return m.next.id >= 0; }) == 600);
}

TEST_CASE("what a client has not dealt with counts on when it has dealt with a part") {
  own_program p;
  generate_reply m = endless(p.client, 1);
  m.window = 400;
  cast::tell_from_outside(p.engine, m);
  p.box.wait([&] { return p.box.pieces.size() >= 20; });
  cast::tell_from_outside(p.engine, pieces_read{p.client, 1, 5});
  p.box.wait([&] { return !p.box.failed.empty(); });
  CHECK(p.box.failed[0].code == errc::cancelled);
  CHECK(p.box.pieces.size() >= 400);
  CHECK(p.box.pieces.size() <= 405); // 400 where the word came too late
}
