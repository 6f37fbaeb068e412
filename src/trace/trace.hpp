/// Records what happened when, as a Chrome/Perfetto trace: one track per actor and stream.
///
/// Format: the Trace Event Format's JSON object form, complete events ("ph": "X") and counters ("ph": "C") in
/// microseconds.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tropilla {

/// Collects events in memory; any thread. A null `tracer*` records nothing, at the cost of a test.
class tracer {
public:
  using clock = std::chrono::steady_clock;
  using track = std::size_t;

  tracer();
  ~tracer();
  tracer(const tracer&) = delete;
  tracer& operator=(const tracer&) = delete;

  /// A track by name ("actor scheduler", "stream host:0 compute"); made at first use, shown in that order.
  [[nodiscard]] track make_track(std::string_view name);
  /// `argument` names a number shown with the event (bytes, rows, a layer); "" shows none.
  void record(track on, std::string_view name, clock::time_point begin, clock::time_point end,
              std::string_view argument = {}, std::int64_t value = 0);

  /// One of the values that a counter has at a time, or that are shown with an event.
  struct series {
    std::string_view name;
    std::int64_t value = 0;
  };
  /// As above, with two numbers.
  void record(track on, std::string_view name, clock::time_point begin, clock::time_point end, const series& first,
              const series& second);
  /// The values of a counter ("memory host:0") from `at` on: Perfetto draws a graph for each series of it. Counters
  /// have no track.
  void counter(std::string_view name, clock::time_point at, std::span<const series> values);

  /// Recorded so far, counters included.
  [[nodiscard]] std::size_t events() const;
  /// Throws `error` (io_error).
  void write(const std::filesystem::path& path) const;

private:
  struct impl;
  std::unique_ptr<impl> impl_;
};

/// Records from construction to destruction.
class trace_span {
public:
  trace_span(tracer* t, tracer::track on, std::string_view name, std::string_view argument = {}, std::int64_t value = 0)
      : tracer_(t), track_(on), name_(name), argument_(argument), value_(value) {
    if (tracer_)
      begin_ = tracer::clock::now();
  }
  ~trace_span() {
    if (tracer_)
      tracer_->record(track_, name_, begin_, tracer::clock::now(), argument_, value_);
  }
  trace_span(const trace_span&) = delete;
  trace_span& operator=(const trace_span&) = delete;

private:
  tracer* tracer_;
  tracer::track track_;
  std::string_view name_; ///< a literal or outliving the span
  std::string_view argument_;
  std::int64_t value_;
  tracer::clock::time_point begin_;
};

} // namespace tropilla
