/// The interface through which a CUDA device uses CUDA: memory, streams, copies, kernels. Tests put the processor
/// (`emulated_gpu.hpp`) or faults in its place.
///
/// Functions that can fail throw an `error` that names the call, the device and the bytes: over_budget where memory is
/// all that is lacking, else device_failed, and most such failures are final for the process's use of the GPU. Any
/// thread, unless a comment says otherwise.
#pragma once

#include "kernels/cuda/cuda_kernels.hpp"

#include <cstddef>
#include <memory>
#include <string>

namespace tropilla::cuda {

class gpu_api {
public:
  virtual ~gpu_api() = default;

  [[nodiscard]] virtual std::string architecture() const = 0; ///< "sm_90"
  /// Makes this GPU the one on which the calling thread enqueues kernels from now on. The other functions do so
  /// themselves.
  virtual void enter() = 0;
  [[nodiscard]] virtual std::size_t free_bytes() const = 0; ///< of its memory, now
  /// Whether `call::linear` takes scratch for rounded inputs.
  [[nodiscard]] virtual bool has_wgmma() const noexcept = 0;

  /// Reserves address space, without memory.
  [[nodiscard]] virtual std::byte* reserve(std::size_t bytes) = 0;
  virtual void release(std::byte* base, std::size_t bytes) noexcept = 0;
  /// The unit in which memory is mapped and unmapped, in size and address.
  [[nodiscard]] virtual std::size_t granule() const noexcept = 0;
  /// Gives one granule memory, which the GPU's peers can use, too, or takes it away.
  virtual void map(std::byte* at) = 0;
  virtual void unmap(std::byte* at) noexcept = 0;

  /// Pinned memory of the processor.
  [[nodiscard]] virtual std::byte* allocate_host(std::size_t bytes) = 0;
  virtual void free_host(std::byte* memory) noexcept = 0;

  /// A `cudaStream_t`. Used by one thread at a time.
  [[nodiscard]] virtual void* make_stream() = 0;
  virtual void end_stream(void* stream) noexcept = 0;
  /// Enqueues a kernel. @pre this is the GPU that the calling thread has entered
  virtual void enqueue(void* stream, const kernel_call& c) = 0;
  /// Enqueues a copy between the processor's memory and the GPU's, either way, or within the GPU's.
  virtual void copy(void* stream, const void* from, void* to, std::size_t bytes) = 0;
  /// Copies from another GPU's memory. `stream` is this GPU's.
  virtual void copy_from(const gpu_api& other, void* stream, const void* from, void* to, std::size_t bytes) = 0;
  /// Waits for the stream; reports what failed in it, launches too.
  virtual void synchronize(void* stream) = 0;

  /// Begins a capture: kernels and copies that the calling thread enqueues on `stream` from now on are kept, and not
  /// run.
  virtual void begin_capture(void* stream) = 0;
  /// Ends the capture and makes it a graph (a `cudaGraphExec_t`). Even if that fails, the stream runs what it is given
  /// again.
  [[nodiscard]] virtual void* end_capture(void* stream) = 0;
  virtual void launch(void* graph, void* stream) = 0;
  /// @pre it does not run any more
  virtual void end_graph(void* graph) noexcept = 0;
};

/// Opens the GPU `index`. Throws `error` (unsupported): there is no driver, or it is too old; no such GPU; one that
/// there are no kernels for. The sentence says what to do.
[[nodiscard]] std::unique_ptr<gpu_api> open_gpu(int index);

} // namespace tropilla::cuda
