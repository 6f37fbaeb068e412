/// A stream on a thread of the processor: a queue of jobs, and the thread that runs them. Devices of all kinds have
/// some.
#pragma once

#include "kernels/device.hpp"

#include <chrono>
#include <memory>
#include <string>

namespace tropilla {

/// Runs jobs on one thread. A job must not throw: one that does ends where it threw, and its failure shows only by what
/// it did not do.
class thread_stream final : public stream {
public:
  /// The thread is named after the stream. It looks for the next job for `spin` before it parks.
  explicit thread_stream(std::string name, std::chrono::nanoseconds spin = {});
  ~thread_stream() override;

  void enqueue(std::function<void()> job) override;
  [[nodiscard]] event record() override;
  void wait(event e) override;
  void synchronize() override;
  [[nodiscard]] std::string_view name() const noexcept override;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

} // namespace tropilla
