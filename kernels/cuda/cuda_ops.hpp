/// Runs jobs of operations on a GPU: what a job calls is written down first, then enqueued.
///
/// The scratch has a workspace and tables. The workspace is used in turn by attention (results of splits), by a product
/// (rounded inputs) and by a gated product (rounded inputs, or gates and what they gate). The tables are what jobs name
/// in the processor's memory: page starts, places of rows, items of attention, ids or chosen rows.
#pragma once

#include "kernels/cuda/call_graphs.hpp"
#include "kernels/device.hpp"

#include <cstddef>
#include <vector>

namespace tropilla::cuda {

/// The place of a device's scratch.
struct device_scratch {
  std::byte* base = nullptr;
  std::size_t bytes = 0;
};

/// The calls and tables of a job. Cleared and used again, so that jobs of the same size allocate nothing.
struct written_job {
  std::vector<gpu_call> calls;
  std::vector<std::byte> tables; ///< as they lie at the scratch's end
};

/// Writes `job` into `written` and enqueues it on `stream`. A job names the same sequences, and shapes of attention
/// with the same heads, in all of its calls. Throws `error` (device_failed), and `error` (internal) where the scratch
/// is too small for its tables. @pre the calling thread has entered `gpu`
void run_job(const compute_job& job, gpu_api& gpu, void* stream, const device_scratch& scratch, written_job& written,
             call_graphs& graphs);

/// Scratch bytes of steps of so many rows; see `device::scratch_bytes`.
[[nodiscard]] std::size_t scratch_bytes(const gpu_api& gpu, std::size_t rows, std::size_t width,
                                        std::size_t pages) noexcept;

} // namespace tropilla::cuda
