// Collects events and writes them as JSON.
#include "src/trace/trace.hpp"

#include "tropilla/error.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace tropilla {
namespace {

struct entry {
  tracer::track on;
  std::string name;
  std::string argument;
  std::int64_t value;
  tracer::clock::time_point begin, end;
  std::string second = {}; ///< argument
  std::int64_t second_value = 0;
};

struct counter_entry {
  std::string name;
  std::vector<std::pair<std::string, std::int64_t>> values;
  tracer::clock::time_point at;
};

} // namespace

struct tracer::impl {
  mutable std::mutex mutex;
  clock::time_point origin = clock::now();
  std::vector<std::string> tracks;
  std::vector<entry> entries;
  std::vector<counter_entry> counters;
};

tracer::tracer() : impl_(std::make_unique<impl>()) {}
tracer::~tracer() = default;

tracer::track tracer::make_track(std::string_view name) {
  const std::lock_guard lock(impl_->mutex);
  for (track t = 0; t < impl_->tracks.size(); ++t)
    if (impl_->tracks[t] == name)
      return t;
  impl_->tracks.emplace_back(name);
  return impl_->tracks.size() - 1;
}

void tracer::record(track on, std::string_view name, clock::time_point begin, clock::time_point end,
                    std::string_view argument, std::int64_t value) {
  entry e{on, std::string(name), std::string(argument), value, begin, end};
  const std::lock_guard lock(impl_->mutex);
  impl_->entries.push_back(std::move(e));
}

void tracer::record(track on, std::string_view name, clock::time_point begin, clock::time_point end,
                    const series& first, const series& second) {
  entry e{on,          std::string(name), std::string(first.name), first.value, begin, end, std::string(second.name),
          second.value};
  const std::lock_guard lock(impl_->mutex);
  impl_->entries.push_back(std::move(e));
}

void tracer::counter(std::string_view name, clock::time_point at, std::span<const series> values) {
  counter_entry e{std::string(name), {}, at};
  e.values.reserve(values.size());
  for (const auto& s : values)
    e.values.emplace_back(s.name, s.value);
  const std::lock_guard lock(impl_->mutex);
  impl_->counters.push_back(std::move(e));
}

std::size_t tracer::events() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->entries.size() + impl_->counters.size();
}

void tracer::write(const std::filesystem::path& path) const {
  const std::lock_guard lock(impl_->mutex);
  const auto micros = [this](clock::time_point t) {
    return std::chrono::duration<double, std::micro>(t - impl_->origin).count();
  };
  auto events = nlohmann::json::array();
  events.push_back({{"ph", "M"}, {"pid", 1}, {"name", "process_name"}, {"args", {{"name", "tropilla"}}}});
  for (track t = 0; t < impl_->tracks.size(); ++t) {
    events.push_back(
        {{"ph", "M"}, {"pid", 1}, {"tid", t}, {"name", "thread_name"}, {"args", {{"name", impl_->tracks[t]}}}});
    events.push_back(
        {{"ph", "M"}, {"pid", 1}, {"tid", t}, {"name", "thread_sort_index"}, {"args", {{"sort_index", t}}}});
  }
  for (const auto& e : impl_->entries) {
    nlohmann::json event = {{"ph", "X"},
                            {"pid", 1},
                            {"tid", e.on},
                            {"name", e.name},
                            {"ts", micros(e.begin)},
                            {"dur", std::chrono::duration<double, std::micro>(e.end - e.begin).count()}};
    if (!e.argument.empty())
      event["args"] = {{e.argument, e.value}};
    if (!e.second.empty())
      event["args"][e.second] = e.second_value;
    events.push_back(std::move(event));
  }
  for (const auto& c : impl_->counters) {
    auto values = nlohmann::json::object();
    for (const auto& [name, value] : c.values)
      values[name] = value;
    events.push_back({{"ph", "C"}, {"pid", 1}, {"name", c.name}, {"ts", micros(c.at)}, {"args", std::move(values)}});
  }
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << nlohmann::json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() << '\n';
  if (!out.flush()) {
    const int reason = errno;
    std::error_code ignored;
    if (std::filesystem::is_regular_file(path, ignored)) // half of one is of no use
      std::filesystem::remove(path, ignored);
    throw error(errc::io_error, fmt::format("can't write the trace to {}: {}", path.string(), std::strerror(reason)));
  }
}

} // namespace tropilla
