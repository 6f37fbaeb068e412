/// A team of threads, one per core, that all run the same job together.
#pragma once

#include "kernels/host/topology.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace tropilla::host {

class team;

/// One thread's place in a running job. Used by that thread alone.
class worker_context {
public:
  [[nodiscard]] std::size_t worker() const noexcept { return worker_; }
  [[nodiscard]] std::size_t workers() const noexcept { return workers_; }

  /// Returns when all workers have called it; what they wrote before is visible after.
  void barrier() noexcept;

  /// Divides `chunks` pieces of work between the workers, each piece to the next one that is free: calls `f(i)` for the
  /// pieces that this worker gets. All workers must call it with the same `chunks`; there is no barrier at its end, and
  /// a barrier must lie between it and the next-but-one call.
  template <class F>
  void share(std::size_t chunks, F&& f) {
    auto& counter = next_counter();
    for (std::size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < chunks;)
      f(i);
  }

private:
  friend class team;
  worker_context(team& t, std::size_t worker, std::size_t workers) : team_(&t), worker_(worker), workers_(workers) {}
  std::atomic<std::size_t>& next_counter() noexcept;

  team* team_;
  std::size_t worker_;
  std::size_t workers_;
  std::size_t shares_ = 0;
};

/// Worker 0 is the thread that calls `run`; the others are threads of the team, pinned to the cores that the process
/// may use. Between jobs they spin for a short while, then park. Destruction joins them.
class team {
public:
  /// @pre `threads` >= 1. `name` begins the threads' names. `cpus` is not kept.
  team(std::size_t threads, std::string name, const topology& cpus = read_topology());
  ~team();
  team(const team&) = delete;
  team& operator=(const team&) = delete;

  [[nodiscard]] std::size_t workers() const noexcept;
  /// How often worker 0 came to a barrier. Any thread.
  [[nodiscard]] std::uint64_t beats() const noexcept;
  /// Pins the calling thread to worker 0's core: for a thread that does little but call `run`.
  void pin_caller() const;
  /// Runs `job` on every worker and returns when all are done. One caller at a time.
  void run(const std::function<void(worker_context&)>& job);

private:
  friend class worker_context;
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla::host
