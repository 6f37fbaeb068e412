/// Watches the memory pressure that this process is under: its control group's, and the machine's.
#pragma once

#include "memory/control_groups.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <poll.h>
#include <span>
#include <string>
#include <vector>

namespace tropilla {

/// Where pressure shows. Tests point it at files of their own.
struct pressure_files {
  std::filesystem::path machine = "/proc/pressure/memory";
  control_group_source groups{};
  /// As `::poll`; negative: no limit.
  std::function<int(std::span<pollfd> files, int timeout_ms)> poll = [](std::span<pollfd> files, int timeout_ms) {
    return ::poll(files.data(), files.size(), timeout_ms);
  };
};

/// Asks the kernel to say when tasks wait for memory for 15% of a second, in all ("some" of pressure stall information,
/// Documentation/accounting/psi.rst), of the machine and of the process's group; and counts how often the group had to
/// give memory back because it was above `memory.high` or `memory.max`. One thread but for `wake`.
class pressure_source {
public:
  /// Each thing that can't be watched is one of the `notices`. Throws `error` (io_error) when the process may open no
  /// more files.
  explicit pressure_source(pressure_files files = {});
  ~pressure_source();
  pressure_source(const pressure_source&) = delete;
  pressure_source& operator=(const pressure_source&) = delete;

  /// False: nothing can be watched, and `wait` returns at its timeout, or when it is woken.
  [[nodiscard]] bool watches_any() const noexcept { return !watched_.empty(); }
  /// A sentence for each thing that can't be watched, and why.
  [[nodiscard]] const std::vector<std::string>& notices() const noexcept { return notices_; }

  /// Waits until there is pressure, the time is over, or `wake` was called. True when there was pressure since the last
  /// call. While pressure lasts it returns about once a second.
  [[nodiscard]] bool wait(std::optional<std::chrono::milliseconds> limit);
  /// Ends a `wait` that is, or the next one. Any thread.
  void wake() const noexcept;

private:
  struct watched_file {
    int file = -1;
    bool is_counter = false;      ///< memory.events; else pressure stall information
    std::uint64_t times_high = 0; ///< that were counted
  };

  /// Whether there is stall information that says when there is pressure; `missing` gets why not.
  [[nodiscard]] bool add_stalls(const std::filesystem::path& path, std::string& missing);
  void add_events(const std::filesystem::path& path);
  [[nodiscard]] bool has_pressure(watched_file& of, short events);

  pressure_files files_;
  int wake_ = -1; ///< an eventfd
  std::vector<watched_file> watched_;
  std::vector<std::string> notices_;
};

} // namespace tropilla
