/// Brings the requests of a batch: reads and tokenises ahead on a thread of its own, and hands out what is pulled.
#pragma once

#include "actors/feeder_messages.hpp"
#include "src/batch/request_queue.hpp"

#include <atomic>
#include <memory>

namespace tropilla::cast {

/// Where a feeder's requests go. Called on the feeder's thread: quick, and without throwing.
class request_sink {
public:
  virtual ~request_sink() = default;
  /// The next request, in the order of the input.
  virtual void take(batch_request r) = 0;
  /// There are no more. May be called more than once.
  virtual void input_ended() = 0;
  /// The input can't be read.
  virtual void input_failed(const error& why) = 0;
  /// The feeder ended, for whatever reason; nothing more comes until another is there (`request_feed::replace`).
  virtual void feeder_ended() = 0;
};

struct feeder_setup {
  std::shared_ptr<request_queue> queue; ///< survives the actor: its successor goes on where it stood
  std::shared_ptr<request_sink> sink;
};

/// Detached, because reads wait.
[[nodiscard]] feeder_actor spawn_feeder(caf::actor_system& system, feeder_setup setup);

/// A client's side of a feeder: counts what was pulled and has not come, so that another feeder can bring it. A request
/// leaves the queue and reaches the sink within one of the feeder's messages, so none is lost or repeated, whenever
/// the feeder ends. One thread, but for the sink.
class request_feed {
public:
  request_feed(caf::actor_system& system, std::shared_ptr<request_queue> queue, std::shared_ptr<request_sink> sink);
  /// Ends the feeder, and waits for it.
  ~request_feed();
  request_feed(const request_feed&) = delete;
  request_feed& operator=(const request_feed&) = delete;

  void pull(std::size_t count);
  /// Pulled, and not come yet.
  [[nodiscard]] std::size_t awaited() const noexcept;
  /// Spawns another feeder after `feeder_ended`. Throws `error` (device_failed) when they end again and again without a
  /// request in between.
  void replace();
  /// The feeder of the moment.
  [[nodiscard]] const feeder_actor& feeder() const noexcept { return feeder_; }

private:
  class counting_sink;
  void spawn();

  caf::actor_system& system_;
  std::shared_ptr<request_queue> queue_;
  std::shared_ptr<counting_sink> sink_;
  feeder_actor feeder_;
  std::size_t replaced_ = 0; ///< since the last request came
  std::size_t come_ = 0;     ///< when it was replaced last
};

} // namespace tropilla::cast
