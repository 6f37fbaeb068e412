// Enqueues a job's calls one by one, or as a graph.
#include "kernels/cuda/call_graphs.hpp"

#include "tropilla/error.hpp"

#include <algorithm>

namespace tropilla::cuda {
namespace {

/// Fewer calls are launched as fast as a graph.
constexpr std::size_t fewest_calls = 4;
/// Lists of calls that are kept: if layers are streamed, each has calls of its own.
constexpr std::size_t max_known = 64;

/// Enqueues the calls in their order. Throws `error` (device_failed).
void issue(std::span<const gpu_call> calls, gpu_api& gpu, void* stream) {
  for (const auto& c : calls)
    if (const auto* const kernel = std::get_if<kernel_call>(&c))
      gpu.enqueue(stream, *kernel);
    else if (const auto* const copy = std::get_if<copy_call>(&c))
      gpu.copy(stream, copy->from, copy->to, copy->bytes);
}

} // namespace

call_graphs::~call_graphs() {
  for (const auto& k : known_)
    if (k.graph != nullptr)
      gpu_.end_graph(k.graph);
}

void* call_graphs::capture(std::span<const gpu_call> calls, void* stream) noexcept {
  try {
    gpu_.begin_capture(stream);
    try {
      issue(calls, gpu_, stream);
    } catch (const error&) {
      if (void* const incomplete = gpu_.end_capture(stream); incomplete != nullptr)
        gpu_.end_graph(incomplete);
      throw;
    }
    return gpu_.end_capture(stream);
  } catch (const error&) {
    return nullptr;
  }
}

void call_graphs::run(std::span<const gpu_call> calls, void* stream) {
  if (!works_ || calls.size() < fewest_calls)
    return issue(calls, gpu_, stream);
  const auto found =
      std::find_if(known_.begin(), known_.end(), [&](const known& k) { return std::ranges::equal(k.calls, calls); });
  if (found == known_.end()) {
    if (known_.size() == max_known) {
      if (known_.back().graph != nullptr) {
        gpu_.synchronize(stream); // which may still run it
        gpu_.end_graph(known_.back().graph);
      }
      known_.pop_back();
    }
    known_.insert(known_.begin(), {{calls.begin(), calls.end()}, nullptr});
    return issue(calls, gpu_, stream);
  }
  std::rotate(known_.begin(), found, found + 1);
  known& k = known_.front();
  if (k.graph == nullptr) {
    k.graph = capture(calls, stream);
    works_ = k.graph != nullptr;
    if (!works_)
      return issue(calls, gpu_, stream);
  }
  gpu_.launch(k.graph, stream);
}

} // namespace tropilla::cuda
