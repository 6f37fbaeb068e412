// A shell around request_queue.
#include "actors/feeder.hpp"

#include <chrono>
#include <fmt/format.h>

namespace tropilla::cast {
namespace {

using namespace std::chrono_literals;

// Of a pipe, how long to wait for more: short where requests are ready that may be pulled meanwhile, and never so long
// that the end of the program would be held up.
constexpr int patience_ms = 50;
constexpr auto next_look = 20ms;
// Steps of reading between two looks at the mailbox; a line takes 1 to 100 us.
constexpr int steps_per_message = 64;
constexpr std::size_t max_replacements = 8;

} // namespace

struct feeder_state {
  static constexpr const char* actor_name = "feeder";

  feeder_state(feeder_actor::pointer s, feeder_setup given) : self(s), setup(std::move(given)) {}

  feeder_actor::behavior_type behaviour() {
    tell(self, feeder_actor(self), read_ahead{});
    return {
        [this](const pull_requests& m) {
          demand += m.count;
          serve();
          if (idle)
            go_on();
        },
        [this](const read_ahead&) { read_on(); },
    };
  }

  void go_on() {
    idle = false;
    tell(self, feeder_actor(self), read_ahead{});
  }

  void serve() {
    while (demand > 0) {
      auto r = setup.queue->take();
      if (!r)
        break;
      --demand;
      setup.sink->take(std::move(*r));
    }
    if (demand > 0 && setup.queue->input_ended())
      setup.sink->input_ended();
  }

  void read_on() {
    try {
      for (int i = 0; i < steps_per_message; ++i) {
        if (setup.queue->full() || setup.queue->input_ended()) {
          idle = true;
          return;
        }
        const bool waiting = !setup.queue->read_on(setup.queue->empty() ? patience_ms : 0);
        serve();
        if (waiting) {
          if (setup.queue->empty())
            break;
          tell_later(self, next_look, read_ahead{});
          return;
        }
      }
      go_on();
    } catch (const error& e) {
      setup.sink->input_failed(e);
      idle = true;
    } catch (...) {
      // A bug, or no memory: the line is still in the queue, for another feeder to try.
      self->quit(to_caf(error(errc::internal, "a request could not be prepared")));
    }
  }

  feeder_actor::pointer self;
  feeder_setup setup;
  std::size_t demand = 0;
  bool idle = false; ///< no `read_ahead` is in flight
};

feeder_actor spawn_feeder(caf::actor_system& system, feeder_setup setup) {
  return spawn<feeder_actor, feeder_state, caf::detached>(system, std::move(setup));
}

class request_feed::counting_sink final : public request_sink {
public:
  explicit counting_sink(std::shared_ptr<request_sink> to) : to_(std::move(to)) {}

  void take(batch_request r) override {
    come.fetch_add(1);
    to_->take(std::move(r));
  }
  void input_ended() override { to_->input_ended(); }
  void input_failed(const error& why) override { to_->input_failed(why); }
  void feeder_ended() override {
    if (!closing)
      to_->feeder_ended();
  }

  std::size_t pulled = 0; ///< the client's thread
  std::atomic<std::size_t> come = 0;
  std::atomic<bool> closing = false;

private:
  std::shared_ptr<request_sink> to_;
};

request_feed::request_feed(caf::actor_system& system, std::shared_ptr<request_queue> queue,
                           std::shared_ptr<request_sink> sink)
    : system_(system), queue_(std::move(queue)), sink_(std::make_shared<counting_sink>(std::move(sink))) {
  spawn();
}

request_feed::~request_feed() {
  sink_->closing = true;
  end_and_wait(system_, feeder_);
}

void request_feed::spawn() {
  feeder_ = spawn_feeder(system_, {queue_, sink_});
  when_ended(feeder_, [sink = sink_] { sink->feeder_ended(); });
}

void request_feed::pull(std::size_t count) {
  sink_->pulled += count;
  tell_from_outside(feeder_, pull_requests{count});
}

std::size_t request_feed::awaited() const noexcept {
  return sink_->pulled - sink_->come;
}

void request_feed::replace() {
  const std::size_t come = sink_->come;
  replaced_ = come == come_ ? replaced_ + 1 : 1;
  come_ = come;
  if (replaced_ > max_replacements)
    throw error(errc::device_failed, fmt::format("the feeder ended {} times without bringing a request", replaced_));
  spawn();
  if (const std::size_t missing = awaited(); missing > 0)
    tell_from_outside(feeder_, pull_requests{missing});
}

} // namespace tropilla::cast
