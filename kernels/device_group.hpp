/// The communicators of devices that compute layers together: a set for every try, whatever becomes of it.
#pragma once

#include "kernels/collective.hpp"

#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace tropilla {

/// By rank. A step has one set on all ranks, so that one which was given up can't exchange values with the next.
using group_ends = std::vector<std::shared_ptr<communicator>>;

/// Any thread.
class device_group {
public:
  /// The devices are of the host and have so many workers each, by rank; `limit` as in `make_host_group`.
  device_group(std::vector<std::size_t> workers, std::chrono::milliseconds limit);

  /// The set for the next step: another one where the last has failed.
  [[nodiscard]] std::shared_ptr<const group_ends> next();
  /// The last set fails: no device waits for others in a step that was begun with it.
  void abort(const error& why) noexcept;

private:
  std::vector<std::size_t> workers_;
  std::chrono::milliseconds limit_;
  std::mutex mutex_;
  std::shared_ptr<const group_ends> last_;
};

} // namespace tropilla
