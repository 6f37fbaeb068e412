/// Has budgets follow the memory pressure of the machine, on a thread of its own.
#pragma once

#include "memory/pressure_source.hpp"
#include "src/log/log.hpp"
#include "src/placement/memory_yield.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace tropilla {

struct memory_yielder_setup {
  struct host_device {
    std::string name; ///< "host:0"
    std::size_t budget = 0;
  };
  std::vector<host_device> devices;
  pressure_files files{};
  yield_pace pace{};
  /// Changes a device's budget and waits until it counts. Throws `error` when it can't, or when the runtime closes.
  std::function<void(std::size_t bytes, const std::string& device)> set_budget;
  std::function<void(std::string_view)> notice{}; ///< as `runtime_config::on_notice`; told in the constructor
  logger log{};
};

class memory_yielder {
public:
  /// Starts to watch. What can't be watched is a notice; where that is everything, no thread starts. Throws `error`
  /// (io_error) when the system refuses the thread.
  explicit memory_yielder(memory_yielder_setup setup);
  ~memory_yielder();
  memory_yielder(const memory_yielder&) = delete;
  memory_yielder& operator=(const memory_yielder&) = delete;

  /// Ends the watching; a change in flight goes on. Any thread.
  void stop() noexcept;
  /// Waits until the watching has ended. @pre `stop` was called
  void join();
  /// A client's change of a budget: `set` sets it, between changes of this one, and where it does not throw, the budget
  /// is what this one returns to from now on. Any thread.
  void client_sets(const std::string& device, std::size_t bytes, const std::function<void()>& set);

private:
  struct followed {
    std::string name;
    memory_yield decide;
  };

  void run();
  void follow(followed& of, bool pressure);
  [[nodiscard]] std::optional<std::chrono::milliseconds> until_next_look();

  memory_yielder_setup setup_;
  pressure_source source_;
  std::mutex mutex_; ///< while a budget changes
  std::vector<followed> devices_;
  std::atomic<bool> stopping_ = false;
  std::jthread thread_; ///< last
};

} // namespace tropilla
