// Parses --log-level and writes records.
#include "app/log_output.hpp"

#include "app/files.hpp"
#include "app/text.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>
#include <unistd.h>
#include <vector>

namespace tropilla::app {
namespace {

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (auto l = log_level::trace; l <= log_level::off; l = static_cast<log_level>(static_cast<int>(l) + 1))
    names.emplace_back(to_string(l));
  return names;
}

[[noreturn]] void no_such(std::string_view what, std::string_view found, const std::vector<std::string>& names) {
  const std::string near = closest(found, names);
  throw error(errc::invalid_argument,
              fmt::format("there is no {} \"{}\"{}; there are {}", what, escape(found),
                          near.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", near), fmt::join(names, ", ")));
}

log_level parse_level(std::string_view text) {
  const auto level = log_level_from_name(text);
  if (!level)
    no_such("log level", text, level_names());
  return *level;
}

/// Days and seconds of a local or universal time, and what is left of a second.
struct wall_time {
  std::time_t seconds;
  std::chrono::microseconds rest;
};

wall_time split(std::chrono::system_clock::time_point t) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(t);
  return {std::chrono::system_clock::to_time_t(whole),
          std::chrono::duration_cast<std::chrono::microseconds>(t - whole)};
}

std::string painted(log_level level, const terminal_facts& terminal) {
  const std::string word = fmt::format("{:<7}", to_string(level));
  switch (level) {
  case log_level::error:
    return terminal.red(word);
  case log_level::warning:
    return terminal.paint("33", word);
  default:
    return terminal.dim(word);
  }
}

/// A file that lines are appended to, each with one write, so that several processes may share it.
class log_file {
public:
  explicit log_file(const std::string& path)
      : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)) {
    if (fd_ < 0)
      throw_system_error("open", path, errno);
  }
  ~log_file() { ::close(fd_); }
  log_file(const log_file&) = delete;
  log_file& operator=(const log_file&) = delete;

  /// A line with its end.
  void append(std::string_view line, status_line& status) {
    if (write_all(fd_, line) || std::exchange(told_, true))
      return;
    status.say(fmt::format("note: the log can't be written to {}: {}", escape(path_), std::strerror(errno)));
  }

private:
  std::string path_;
  int fd_;
  bool told_ = false; ///< that it can't be written
};

} // namespace

log_options parse_log_levels(std::string_view text) {
  log_options out;
  out.level = log_level::off;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const auto item = text.substr(at, end - at);
    at = end + 1;
    const std::size_t sign = item.find('=');
    if (sign == std::string_view::npos) {
      out.level = parse_level(item);
      continue;
    }
    const auto component = item.substr(0, sign);
    const auto known = log_components();
    if (std::ranges::find(known, component) == known.end())
      no_such("component that logs", component, {known.begin(), known.end()});
    out.components.push_back({std::string(component), parse_level(item.substr(sign + 1))});
  }
  return out;
}

std::string log_line(const log_record& record, const terminal_facts& terminal) {
  const auto [seconds, rest] = split(record.time);
  const auto time = fmt::format("{:%Y-%m-%d %H:%M:%S}.{:03}", fmt::localtime(seconds), rest.count() / 1000);
  return fmt::format("{} {} {}: {}", terminal.dim(time), painted(record.level, terminal), record.component,
                     escape(record.message));
}

std::string log_json(const log_record& record) {
  const auto [seconds, rest] = split(record.time);
  const nlohmann::ordered_json line = {
      {"time", fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:06}Z", fmt::gmtime(seconds), rest.count())},
      {"level", to_string(record.level)},
      {"component", record.component},
      {"message", record.message}};
  return line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool log_settings::shows_warnings() const {
  if (!wanted() || !file.empty())
    return false;
  if (!levels)
    return true;
  auto level = levels->level;
  for (const auto& c : levels->components)
    if (c.component == log_components().front())
      level = c.level;
  return level <= log_level::warning;
}

log_options log_settings::open(const std::shared_ptr<status_line>& status) const {
  if (!wanted())
    return {};
  log_options out = levels.value_or(log_options{});
  const auto form = [as_json = json](const log_record& r, const terminal_facts& terminal) {
    return as_json ? log_json(r) : log_line(r, terminal);
  };
  if (file.empty()) {
    out.sink = [status, form](const log_record& r) { status->say(form(r, status->terminal())); };
  } else {
    const auto to = std::make_shared<log_file>(expand_home(file));
    out.sink = [status, form, to](const log_record& r) { to->append(form(r, {}) + "\n", *status); };
  }
  return out;
}

} // namespace tropilla::app
