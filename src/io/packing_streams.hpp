/// Runs a loader's jobs, which pack and compare groups while others are read, on several streams in turn.
#pragma once

#include "kernels/device.hpp"
#include "src/trace/trace.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tropilla {

/// Streams that take jobs in turn. One thread enqueues; jobs of several streams run at the same time.
class packing_streams {
public:
  /// `count` streams of a device, each with a track in the trace where there is one. Throws `error` (io_error) when the
  /// system refuses a thread.
  packing_streams(device& of, std::size_t count, tracer* trace) {
    for (std::size_t i = 0; i < count; ++i) {
      streams_.push_back(of.make_stream("pack " + std::to_string(i)));
      tracks_.push_back(
          trace ? trace->make_track("stream " + std::string(of.name()) + " " + std::string(streams_[i]->name()))
                : tracer::track{});
    }
  }

  /// Runs `job(track of the trace)` on a stream. A job must not throw.
  template <class Job>
  void enqueue(Job job) {
    const std::size_t s = next_++ % streams_.size();
    streams_[s]->enqueue([track = tracks_[s], job = std::move(job)] { job(track); });
  }

private:
  std::size_t next_ = 0;
  std::vector<tracer::track> tracks_;
  std::vector<std::unique_ptr<stream>> streams_; ///< gone first: their jobs run to the end
};

} // namespace tropilla
