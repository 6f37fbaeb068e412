// Logs through spdlog, which no other file knows. spdlog's registry is global, so nothing here touches it.
#include "src/log/log.hpp"

#include "memory/bytes.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/ranges.h>
#include <iterator>
#include <spdlog/async_logger.h>
#include <spdlog/details/thread_pool.h>
#include <spdlog/sinks/sink.h>

namespace tropilla {
namespace {

constexpr std::array<std::string_view, 8> component_names = {"runtime", "supervisor", "scheduler", "memory",
                                                             "loader",  "prefetcher", "compute",   "cache"};
constexpr std::array<std::string_view, 6> level_names = {"trace", "debug", "info", "warning", "error", "off"};
constexpr std::array<spdlog::level::level_enum, 6> spdlog_levels = {spdlog::level::trace, spdlog::level::debug,
                                                                    spdlog::level::info,  spdlog::level::warn,
                                                                    spdlog::level::err,   spdlog::level::off};

// A message of up to 250 characters lies in the queue itself, so this is about 450 KiB, taken when the runtime opens.
constexpr std::size_t records_in_queue = 1024;

spdlog::level::level_enum to_spdlog(log_level level) {
  return spdlog_levels[static_cast<std::size_t>(level)];
}

log_level from_spdlog(spdlog::level::level_enum level) {
  return static_cast<log_level>(std::ranges::find(spdlog_levels, level) - spdlog_levels.begin());
}

/// Hands records to the program's sink, on the queue's thread.
class program_sink final : public spdlog::sinks::sink {
public:
  explicit program_sink(log_sink to) : to_(std::move(to)) {}
  void watch(spdlog::details::thread_pool* queue) { queue_ = queue; }

  void log(const spdlog::details::log_msg& m) override {
    tell_lost(m.time);
    hand({m.time,
          from_spdlog(m.level),
          {m.logger_name.data(), m.logger_name.size()},
          {m.payload.data(), m.payload.size()}});
  }
  void flush() override {}
  void set_pattern(const std::string&) override {}
  void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

private:
  void hand(const log_record& record) noexcept {
    try {
      to_(record);
    } catch (...) { // the program's own affair, and no reason to end anything here
    }
  }

  void tell_lost(std::chrono::system_clock::time_point now) {
    const auto lost = queue_->overrun_counter();
    if (lost == lost_)
      return;
    const auto sentence = fmt::format("{} records are lost: they came faster than the sink took them", lost - lost_);
    lost_ = lost;
    hand({now, log_level::warning, component_names.front(), sentence});
  }

  log_sink to_;
  spdlog::details::thread_pool* queue_ = nullptr;
  std::size_t lost_ = 0;
};

} // namespace

std::string_view to_string(log_level level) noexcept {
  return level_names[static_cast<std::size_t>(level)];
}

std::optional<log_level> log_level_from_name(std::string_view name) noexcept {
  const auto found = std::ranges::find(level_names, name);
  return found == level_names.end() ? std::nullopt : std::optional(static_cast<log_level>(found - level_names.begin()));
}

std::span<const std::string_view> log_components() noexcept {
  return component_names;
}

void logger::write(log_level level, fmt::string_view text, fmt::format_args values) const noexcept {
  try {
    fmt::memory_buffer message;
    fmt::vformat_to(std::back_inserter(message), text, values);
    to_->log(to_spdlog(level), spdlog::string_view_t(message.data(), message.size()));
  } catch (...) { // no memory: a record less
  }
}

struct logs::impl {
  std::array<logger, component_names.size()> loggers;
  std::unique_ptr<spdlog::details::thread_pool> queue;
  /// Loggers have this handle weakly, and it owns nothing: the thread that logs last must not join the queue's thread.
  std::shared_ptr<spdlog::details::thread_pool> handle;
};

logs::logs(const log_options& options) {
  std::array<log_level, component_names.size()> levels{};
  levels.fill(options.level);
  for (const auto& c : options.components) {
    const auto found = std::ranges::find(component_names, c.component);
    if (found == component_names.end())
      throw error(errc::invalid_argument, fmt::format("there is no component \"{}\" that logs; there are {}",
                                                      c.component, fmt::join(component_names, ", ")));
    levels[static_cast<std::size_t>(found - component_names.begin())] = c.level;
  }
  if (!options.sink || std::ranges::all_of(levels, [](log_level l) { return l == log_level::off; }))
    return;
  impl_ = std::make_unique<impl>();
  impl_->queue = std::make_unique<spdlog::details::thread_pool>(records_in_queue, 1);
  impl_->handle = {impl_->queue.get(), [](spdlog::details::thread_pool*) {}};
  const auto sink = std::make_shared<program_sink>(options.sink);
  sink->watch(impl_->queue.get());
  for (std::size_t i = 0; i < levels.size(); ++i) {
    auto to = std::make_shared<spdlog::async_logger>(std::string(component_names[i]), sink, impl_->handle,
                                                     spdlog::async_overflow_policy::overrun_oldest);
    to->set_level(to_spdlog(levels[i]));
    to->set_error_handler([](const std::string&) {}); // spdlog's own prints to standard error
    impl_->loggers[i].min_ = levels[i];
    impl_->loggers[i].to_ = std::move(to);
  }
}

logs::~logs() = default;

logger logs::of(log_component component) const {
  return impl_ ? impl_->loggers[static_cast<std::size_t>(component)] : logger();
}

} // namespace tropilla

fmt::appender fmt::formatter<tropilla::human_bytes>::format(const tropilla::human_bytes& value,
                                                            fmt::format_context& context) const {
  return fmt::format_to(context.out(), "{}", tropilla::format_bytes(value.bytes));
}
