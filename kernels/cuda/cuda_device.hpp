/// A CUDA device: implements the seam of `kernels/device.hpp` for a GPU.
///
/// Compute jobs run on a thread of the device's own, which enqueues kernels and does not wait for them; a recorded
/// event is done when the GPU is. Copies have a stream for each thread that asks, so that they overlap with kernels.
#pragma once

#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/device.hpp"
#include "kernels/thread_stream.hpp"

#include <functional>
#include <mutex>
#include <string>
#include <vector>

namespace tropilla::cuda {

class cuda_device final : public device {
public:
  cuda_device(std::string name, std::unique_ptr<gpu_api> gpu);
  ~cuda_device() override;

  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] bool host_memory() const noexcept override { return false; }
  void upload(const std::byte* from, std::byte* to, std::size_t bytes) override;
  void download(const std::byte* from, std::byte* to, std::size_t bytes) override;
  [[nodiscard]] bool takes_from(const device& other) const noexcept override;
  void copy_from(const device& other, const std::byte* from, std::byte* to, std::size_t bytes) override;
  [[nodiscard]] std::shared_ptr<std::byte> make_host_buffer(std::size_t bytes) override;
  [[nodiscard]] std::byte* reserve(std::size_t bytes) override;
  [[nodiscard]] bool commit(std::byte* begin, std::size_t bytes) noexcept override;
  void trim(std::byte* begin, std::size_t bytes) noexcept override;
  [[nodiscard]] std::unique_ptr<stream> make_stream(std::string name) override;
  [[nodiscard]] stream& compute_stream() noexcept override;
  void enqueue(compute_job job) override;
  [[nodiscard]] std::size_t workers() const noexcept override { return 1; }
  /// Blocks of threads come in waves, and the last one is mostly idle.
  [[nodiscard]] std::size_t useful_batch_tokens() const noexcept override { return 2048; }
  [[nodiscard]] std::string_view isa() const noexcept override { return isa_; }
  [[nodiscard]] std::size_t activation_bytes(activation_kind kind, std::size_t rows,
                                             std::size_t width) const noexcept override;
  [[nodiscard]] std::size_t scratch_bytes(std::size_t rows, std::size_t width,
                                          std::size_t pages) const noexcept override;
  void set_scratch(std::byte* scratch, std::size_t bytes) override;
  [[nodiscard]] std::optional<error> failure() const override;

private:
  class compute_order;

  /// Has `enqueue_on` put copies on a stream that is idle, and waits for them.
  void copy(const std::function<void(void* stream)>& enqueue_on);
  void fail(const error& why) noexcept;

  std::string name_;
  std::shared_ptr<gpu_api> gpu_;
  std::string isa_;
  device_scratch scratch_;
  mutable std::mutex mutex_; ///< guards the next five
  std::optional<error> failure_;
  std::vector<void*> idle_streams_; ///< for copies
  std::byte* reserved_ = nullptr;
  std::size_t reserved_bytes_ = 0;
  std::vector<bool> mapped_; ///< by granule of the reservation
  void* stream_ = nullptr;   ///< of kernels
  // The compute thread's own.
  written_job job_;
  call_graphs graphs_;
  std::unique_ptr<compute_order> compute_;
};

} // namespace tropilla::cuda
