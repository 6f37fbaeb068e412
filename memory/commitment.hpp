/// Checks that there is memory for bytes before they are written for the first time. The system gives host memory at
/// the first write and ends the process when it has none left, so the first writer asks first.
#pragma once

#include "memory/memory_limit.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// Counts the bytes that the devices of one runtime were promised. Any thread.
///
/// No figure of the system shows what was promised and is not yet written: it is the sum of promises less the growth of
/// the process's anonymous memory since. So a promise needs
///   left + (anonymous now - anonymous at the beginning) >= promised so far + bytes + what the program needs besides.
class memory_promises {
public:
  using reading_function = std::function<memory_reading()>;

  /// `needs`: as `limit_of` was given, so that a plan within the limit finds its memory.
  memory_promises(reading_function read, program_needs needs);

  /// Promises bytes, or says why not: "1.0 MiB more are needed, and ... leaves 0.5 MiB".
  [[nodiscard]] std::optional<std::string> promise(std::size_t bytes);
  /// Promises all bytes of a plan at once: `draw` takes from them.
  [[nodiscard]] std::optional<std::string> promise_ahead(std::size_t bytes);
  /// As `promise`, but takes what was promised ahead without asking again.
  [[nodiscard]] std::optional<std::string> draw(std::size_t bytes);
  /// Takes promised bytes back: nobody uses them any more, and the system has their pages.
  void take_back(std::size_t bytes) noexcept;

private:
  [[nodiscard]] std::optional<std::string> count(std::size_t bytes);

  reading_function read_;
  program_needs needs_;
  std::size_t anonymous_; ///< at the beginning
  std::mutex mutex_;
  std::size_t promised_ = 0;
  std::size_t ahead_ = 0; ///< of these
};

/// Remembers which bytes of a reservation were promised, so that each is asked for once. Counts in `chunk`s, since the
/// system gives pages of that size where it can. Any thread.
class committed_bytes {
public:
  static constexpr std::size_t chunk = std::size_t{2} << 20;

  committed_bytes(std::shared_ptr<memory_promises> promises, std::size_t reservation);

  /// Asks for the bytes [offset, offset + bytes) before they are written. Empty: they may be written; else the reason
  /// why not, and nothing has changed. `planned`: they may be drawn from what was promised ahead.
  [[nodiscard]] std::optional<std::string> commit(std::size_t offset, std::size_t bytes, bool planned = false);
  /// Notes that the system has the pages of these bytes again.
  void trim(std::size_t offset, std::size_t bytes) noexcept;

private:
  std::shared_ptr<memory_promises> promises_;
  std::mutex mutex_;
  std::vector<bool> committed_; ///< by chunk
};

} // namespace tropilla
