// Triggers of pressure stall information, and the counters of memory.events, behind one poll.
#include "memory/pressure_source.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <limits>
#include <string_view>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utility>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

/// 15% of a second: stalls that others notice, and more than a program that reads its files for the first time causes.
/// Without CAP_SYS_RESOURCE the kernel takes windows of whole two seconds only.
constexpr std::string_view triggers[] = {"some 150000 1000000", "some 300000 2000000"};

/// The sum of the counters of memory.events that say that the group had to give memory back. Empty: it can't be read.
std::optional<std::uint64_t> times_high(int file) {
  char text[1024];
  const auto size = ::pread(file, text, sizeof text, 0);
  if (size < 0)
    return std::nullopt;
  std::uint64_t sum = 0;
  for (std::string_view rest(text, static_cast<std::size_t>(size)); !rest.empty();) {
    const auto line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    for (const std::string_view name : {"high ", "max "}) {
      std::uint64_t count = 0;
      if (line.starts_with(name) &&
          std::from_chars(line.data() + name.size(), line.data() + line.size(), count).ec == std::errc{})
        sum += count;
    }
  }
  return sum;
}

} // namespace

pressure_source::pressure_source(pressure_files files) : files_(std::move(files)), wake_(::eventfd(0, EFD_CLOEXEC)) {
  if (wake_ < 0)
    throw error(errc::io_error, fmt::format("the memory pressure can't be watched: {}", std::strerror(errno)));
  std::string of_group, of_machine;
  bool group = false, old_group = false;
  for (const auto& g : control_groups_of("memory", files_.groups)) {
    old_group = old_group || g.version == 1;
    std::error_code unknown;
    if (g.version == 1 || !fs::exists(g.folder / "memory.events", unknown)) // a root group has none
      continue;
    group = add_stalls(g.folder / "memory.pressure", of_group);
    add_events(g.folder / "memory.events");
    break; // what happens to those above it happens to it
  }
  const bool machine = add_stalls(files_.machine, of_machine);
  if (!machine)
    notices_.push_back("the machine's memory pressure can't be watched: " + of_machine);
  if (!group && !of_group.empty())
    notices_.push_back("the control group's memory pressure can't be watched: " + of_group);
  else if (!group && old_group)
    notices_.emplace_back("the control group's memory pressure can't be watched: the group is of version 1, and only "
                          "those of version 2 tell");
}

pressure_source::~pressure_source() {
  for (const auto& w : watched_)
    ::close(w.file);
  if (wake_ >= 0)
    ::close(wake_);
}

bool pressure_source::add_stalls(const fs::path& path, std::string& missing) {
  std::error_code unknown;
  if (!fs::exists(path, unknown)) {
    missing =
        fmt::format("there is no {}; the kernel has to be built with CONFIG_PSI and started with psi=1", path.string());
    return false;
  }
  int why = 0;
  for (const auto trigger : triggers) {
    const int file = ::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) {
      why = errno;
      break;
    }
    if (::write(file, trigger.data(), trigger.size()) == static_cast<ssize_t>(trigger.size())) {
      watched_.push_back({file});
      return true;
    }
    why = errno;
    ::close(file);
  }
  missing = fmt::format("{}: {}", path.string(), std::strerror(why));
  return false;
}

void pressure_source::add_events(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return;
  if (const auto times = times_high(file))
    watched_.push_back({file, true, *times});
  else
    ::close(file);
}

bool pressure_source::wait(std::optional<std::chrono::milliseconds> limit) {
  std::vector<pollfd> files{{wake_, POLLIN, 0}};
  for (const auto& w : watched_)
    files.push_back({w.file, POLLPRI, 0});
  constexpr std::int64_t max_ms = std::numeric_limits<int>::max();
  const int timeout = limit ? static_cast<int>(std::clamp<std::int64_t>(limit->count(), 0, max_ms)) : -1;
  if (files_.poll(files, timeout) < 0)
    for (auto& f : files)
      f.revents = 0; // a signal: the caller looks at the time and comes back
  if (files.front().revents != 0) {
    std::uint64_t wakes = 0;
    (void)!::read(wake_, &wakes, sizeof wakes);
  }
  bool pressure = false;
  for (std::size_t i = 0; i < watched_.size(); ++i)
    pressure = has_pressure(watched_[i], files[i + 1].revents) || pressure;
  std::erase_if(watched_, [](const auto& w) { return w.file < 0; });
  return pressure;
}

/// Closes a file that has nothing to say any more: its group is gone, and poll would return at once for ever.
bool pressure_source::has_pressure(watched_file& of, short events) {
  std::optional<std::uint64_t> times;
  if (of.is_counter)
    times = times_high(of.file);
  const bool gone = (events & POLLNVAL) != 0 || (of.is_counter ? !times : (events & POLLERR) != 0);
  if (gone) {
    ::close(of.file);
    of.file = -1;
    return false;
  }
  if (!of.is_counter)
    return (events & POLLPRI) != 0;
  return std::exchange(of.times_high, *times) < *times;
}

void pressure_source::wake() const noexcept {
  const std::uint64_t one = 1;
  (void)!::write(wake_, &one, sizeof one);
}

} // namespace tropilla
