/// Pinned staging buffers: weight groups are put together there for a device whose memory the processor can't write,
/// and copied from there.
#pragma once

#include "kernels/device.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tropilla {

/// Two buffers take turns, so that one group is read while another is copied. Further buffers are a cache: groups stay
/// there once they were read.
class staging_buffers {
public:
  /// A buffer belongs to one group until that was delivered.
  struct buffer {
    enum class content : std::uint8_t { none, in_flight, complete };

    std::byte* memory = nullptr;
    std::shared_ptr<std::byte> own; ///< of a buffer that is one group's for good
    std::atomic<content> has = content::in_flight;
  };

  struct sizes {
    std::size_t read_buffers = 0; ///< bytes of the loader's read buffers, in the same memory
    std::size_t largest = 0;      ///< bytes of a group
    std::size_t cached = 0;       ///< bytes of groups that stay
  };
  /// Bytes of pinned memory that a loader's staging_buffers need.
  [[nodiscard]] static std::size_t pinned_bytes(const sizes& s) noexcept;
  /// `pinned`: of `dev.make_host_buffer`. `freed` is called, on any thread, when a buffer is free again; `notice` as
  /// `runtime_config::on_notice`, or empty.
  staging_buffers(device& dev, const sizes& s, std::shared_ptr<std::byte> pinned, std::function<void()> freed,
                  std::function<void(std::string_view)> notice);

  /// `sizes::read_buffers` bytes.
  [[nodiscard]] std::byte* read_buffers() const noexcept { return pinned_.get(); }
  /// Takes a buffer for the group's bytes. Complete: they are there already. Null: none is free. One thread calls this.
  [[nodiscard]] std::shared_ptr<buffer> take(std::size_t group, std::size_t bytes, bool stays);
  [[nodiscard]] bool any_free() const;
  /// Copies the group to the device's memory on a stream of its own, unless `failed`, and lets go of the buffer. `done`
  /// is called there with why it failed, or null, and how long it took. Any thread.
  using delivered = std::function<void(const error*, std::chrono::nanoseconds)>;
  void deliver(std::shared_ptr<buffer> from, std::byte* to, std::size_t bytes, bool failed, delivered done);

private:
  [[nodiscard]] std::shared_ptr<buffer> take_cached(std::size_t group, std::size_t bytes);

  device& dev_;
  std::size_t cached_bytes_; ///< that are left
  std::function<void()> freed_;
  std::function<void(std::string_view)> notice_;
  std::shared_ptr<std::byte> pinned_;
  std::unordered_map<std::size_t, std::shared_ptr<buffer>> cached_; ///< by group
  mutable std::mutex mutex_;
  std::vector<std::byte*> free_;
  std::unique_ptr<stream> stream_; ///< last: it ends with what was delivered
};

} // namespace tropilla
