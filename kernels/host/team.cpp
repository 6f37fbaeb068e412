// Threads that run a job together: publishing a job, the barrier, parking.
#include "kernels/host/team.hpp"

#include "kernels/spin.hpp"
#include "kernels/threads.hpp"

#include <array>
#include <bit>
#include <chrono>
#include <fmt/format.h>
#include <pthread.h>
#include <thread>
#include <utility>
#include <vector>

namespace tropilla::host {
namespace {

constexpr std::size_t line_bytes = 64;
/// How long a thread looks for the next job before it parks. Steps of a reply follow each other within about this
/// time, and waking a parked thread takes about as long.
constexpr std::chrono::microseconds spin_between_jobs{50};
/// Looks at a flag before a worker assumes that the worker it waits for lost its core. A barrier within a step is met
/// within microseconds; 2000 pauses are 40 to 100 of them.
constexpr int looks_before_yield = 2000;
/// The same where workers share cores.
constexpr int looks_when_crowded = 20;
constexpr std::size_t share_counters = 4;

struct alignas(line_bytes) padded_counter {
  std::atomic<std::size_t> value = 0;
};

struct alignas(line_bytes) padded_flag {
  std::atomic<std::uint64_t> epoch = 0;
};

void pin_to(pthread_t thread, int unit) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (unit >= 0 && unit < CPU_SETSIZE) {
    CPU_SET(static_cast<std::size_t>(unit), &mask);
    pthread_setaffinity_np(thread, sizeof(mask), &mask); // a refusal costs speed only
  }
}

} // namespace

/// The barrier is a dissemination barrier (Hensgen, Finkel and Manber, 1988): in round k, worker i tells worker i + 2^k
/// that it came and waits to be told by worker i - 2^k. Each flag has one writer and counts up, so nothing is reset;
/// two workers need a single round, in which both stores travel at the same time.
struct team::impl {
  struct alignas(line_bytes) worker_state {
    std::array<padded_flag, 10> flags;           ///< by round
    alignas(line_bytes) std::uint64_t epoch = 0; ///< barriers that this worker has begun; its own
  };

  impl(std::size_t threads, bool crowded)
      : workers(threads), rounds(static_cast<std::size_t>(std::bit_width(threads - 1))),
        looks(crowded ? looks_when_crowded : looks_before_yield) {}

  std::vector<worker_state> workers;
  std::size_t rounds;
  int looks; ///< at a flag before yielding
  std::array<padded_counter, share_counters> counters;
  alignas(line_bytes) std::atomic<std::uint32_t> jobs = 0; ///< published so far
  alignas(line_bytes) std::atomic<std::uint64_t> beats = 0;
  alignas(line_bytes) const std::function<void(worker_context&)>* job = nullptr;
  bool stopping = false; ///< guarded by `jobs`, as `job`
  int first_unit = -1;   ///< of worker 0; -1: not pinned
  std::vector<std::jthread> started;

  ~impl() {
    stopping = true;
    publish();
    started.clear(); // joins, also those that were made before another was refused
  }

  void barrier(std::size_t worker) noexcept {
    auto& own = workers[worker];
    const std::uint64_t epoch = ++own.epoch;
    for (std::size_t round = 0, step = 1; round < rounds; ++round, step *= 2) {
      const std::size_t to = worker + step;
      workers[to < workers.size() ? to : to - workers.size()].flags[round].epoch.store(epoch,
                                                                                       std::memory_order_release);
      const auto& flag = own.flags[round].epoch;
      for (int looked = 0; flag.load(std::memory_order_acquire) < epoch;)
        if (++looked < looks)
          relax();
        else
          sched_yield();
    }
  }

  /// Waits for a job after number `seen`; its number.
  std::uint32_t next_job(std::uint32_t seen) {
    const auto published = [&] { return jobs.load(std::memory_order_acquire) != seen; };
    if (!spin_for(spin_between_jobs, published))
      jobs.wait(seen, std::memory_order_acquire);
    return jobs.load(std::memory_order_acquire);
  }

  void publish() {
    jobs.fetch_add(1, std::memory_order_release);
    jobs.notify_all();
  }
};

void worker_context::barrier() noexcept {
  if (worker_ == 0) {
    auto& beats = team_->impl_->beats; // worker 0 alone writes it
    beats.store(beats.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  if (workers_ > 1)
    team_->impl_->barrier(worker_);
}

std::atomic<std::size_t>& worker_context::next_counter() noexcept {
  // Two calls may be under way at once (this and its neighbour), so no call uses the counter after the next: the call
  // before the last is over for all, and the one that will use it comes after a barrier.
  auto& counters = team_->impl_->counters;
  counters[(shares_ + 2) % share_counters].value.store(0, std::memory_order_relaxed);
  return counters[shares_++ % share_counters].value;
}

team::team(std::size_t threads, std::string name, const topology& cpus) {
  impl_ = std::make_unique<impl>(threads, threads > cpus.cores);
  const bool pinned = threads <= cpus.units.size(); // else threads share cores, and the system divides them best
  if (pinned)
    impl_->first_unit = cpus.units.front();
  for (std::size_t worker = 1; worker < threads; ++worker) {
    impl_->started.push_back(start_thread("computing", [this, worker] {
      for (std::uint32_t seen = 0;;) {
        seen = impl_->next_job(seen);
        if (impl_->stopping)
          return;
        worker_context context(*this, worker, impl_->workers.size());
        (*impl_->job)(context);
        context.barrier();
      }
    }));
    const auto handle = impl_->started.back().native_handle();
    pthread_setname_np(handle, fmt::format("{:.11}/{}", name, worker).substr(0, 15).c_str());
    if (pinned)
      pin_to(handle, cpus.units[worker]);
  }
}

team::~team() = default;

std::size_t team::workers() const noexcept {
  return impl_->workers.size();
}

std::uint64_t team::beats() const noexcept {
  return impl_->beats.load(std::memory_order_relaxed);
}

void team::pin_caller() const {
  pin_to(pthread_self(), impl_->first_unit);
}

void team::run(const std::function<void(worker_context&)>& job) {
  for (auto& counter : impl_->counters)
    counter.value.store(0, std::memory_order_relaxed);
  worker_context context(*this, 0, impl_->workers.size());
  if (impl_->workers.size() == 1) {
    job(context);
    return;
  }
  impl_->job = &job;
  impl_->publish();
  job(context);
  context.barrier();
}

} // namespace tropilla::host
