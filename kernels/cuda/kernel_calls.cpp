// Enqueues a job's calls one by one, or as a graph.
#include "kernels/cuda/kernel_calls.hpp"

#include "tropilla/error.hpp"

#include <algorithm>

namespace tropilla::cuda {
namespace {

/// Fewer calls are launched as fast as a graph.
constexpr std::size_t fewest_calls = 4;
/// Lists of calls that are kept: if layers are streamed, each has calls of its own.
constexpr std::size_t max_known = 64;

struct issuing {
  const kernel_table& kernels;
  gpu_api& gpu;
  void* stream;

  void operator()(const call::embed& c) const { kernels.embed(stream, c.table, c.ids, c.rows, c.x); }
  void operator()(const call::rms_norm& c) const {
    kernels.rms_norm(stream, c.x, c.weight, c.epsilon, c.rows, c.width, c.out);
  }
  void operator()(const call::store& c) const { kernels.store(stream, c.x, c.stride, c.rows, c.width, c.out); }
  void operator()(const call::store_swiglu& c) const {
    kernels.store_swiglu(stream, c.gate, c.up, c.stride, c.rows, c.width, c.out);
  }
  void operator()(const call::linear& c) const {
    kernels.linear(stream, c.input, c.rows, std::span(c.targets).first(c.count), c.rounded);
  }
  void operator()(const call::gated_linear& c) const {
    kernels.gated_linear(stream, c.input, c.rows, c.gate, c.up, c.out, c.rounded);
  }
  void operator()(const call::rope_and_append& c) const {
    kernels.rope_and_append(stream, c.q, c.k, c.v, c.stride, c.shape, c.rope, c.layer, c.step);
  }
  void operator()(const call::attention& c) const {
    kernels.attention(stream, c.q, c.stride, c.shape, c.layer, c.step, c.out, c.scratch);
  }
  void operator()(const call::gather_rows& c) const {
    kernels.gather_rows(stream, c.x, c.width, c.rows, c.count, c.out);
  }
  void operator()(const call::top_k& c) const { kernels.top_k(stream, c.logits, c.rows, c.vocabulary, c.k, c.out); }
  void operator()(const call::copy& c) const { gpu.copy(stream, c.from, c.to, c.bytes); }
};

} // namespace

void issue(std::span<const kernel_call> calls, gpu_api& gpu, void* stream) {
  for (const auto& c : calls)
    std::visit(issuing{gpu.kernels(), gpu, stream}, c);
}

call_graphs::~call_graphs() {
  for (const auto& k : known_)
    if (k.graph != nullptr)
      gpu_.end_graph(k.graph);
}

void* call_graphs::capture(std::span<const kernel_call> calls, void* stream) noexcept {
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

void call_graphs::run(std::span<const kernel_call> calls, void* stream) {
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
