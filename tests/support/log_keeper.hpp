/// A sink that keeps records for a test to look at.
#pragma once

#include "tropilla/log.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::testing {

/// Any thread. It outlives the runtime whose log it keeps.
class log_keeper {
public:
  struct record {
    std::chrono::system_clock::time_point time;
    log_level level;
    std::string component, message;
  };

  [[nodiscard]] log_sink sink() {
    return [this](const log_record& r) {
      const std::lock_guard lock(mutex_);
      records_.push_back({r.time, r.level, std::string(r.component), std::string(r.message)});
      changed_.notify_all();
    };
  }
  [[nodiscard]] std::vector<record> records() const {
    const std::lock_guard lock(mutex_);
    return records_;
  }
  /// Messages of a component that have `words` in them.
  [[nodiscard]] std::vector<std::string> messages(std::string_view component, std::string_view words = {}) const {
    std::vector<std::string> out;
    for (const auto& r : records())
      if (r.component == component && r.message.find(words) != std::string::npos)
        out.push_back(r.message);
    return out;
  }
  /// Blocks until there is such a message; false after a minute.
  [[nodiscard]] bool wait_for(std::string_view component, std::string_view words) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] {
      return std::ranges::any_of(records_, [&](const auto& r) {
        return r.component == component && r.message.find(words) != std::string::npos;
      });
    });
  }

private:
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<record> records_;
};

} // namespace tropilla::testing
