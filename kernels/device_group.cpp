// Makes communicators when those before have failed.
#include "kernels/device_group.hpp"

#include <utility>

namespace tropilla {

device_group::device_group(std::vector<std::size_t> workers, std::chrono::milliseconds limit)
    : workers_(std::move(workers)), limit_(limit) {}

std::shared_ptr<const group_ends> device_group::next() {
  const std::lock_guard lock(mutex_);
  if (!last_ || last_->front()->failure()) {
    auto made = make_host_group(workers_, limit_);
    last_ = std::make_shared<group_ends>(std::make_move_iterator(made.begin()), std::make_move_iterator(made.end()));
  }
  return last_;
}

void device_group::abort(const error& why) noexcept {
  const std::lock_guard lock(mutex_);
  if (last_)
    last_->front()->abort(why);
}

} // namespace tropilla
