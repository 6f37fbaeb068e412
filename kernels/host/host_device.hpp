/// A host device: memory reserved with mmap, a team of threads that compute, and streams that copy.
#pragma once

#include "kernels/device.hpp"
#include "kernels/host/host_ops.hpp"
#include "kernels/host/team.hpp"
#include "kernels/host/topology.hpp"
#include "kernels/thread_stream.hpp"

#include <memory>
#include <string>

namespace tropilla::host {

class host_device final : public device {
public:
  /// Throws `error` (invalid_argument) for an instruction set that is unknown or that the machine lacks, and for more
  /// than 1024 threads. Its threads are pinned to units of `cpus`, which is not kept.
  explicit host_device(const host_options& options, const topology& cpus = read_topology());
  ~host_device() override;

  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] std::byte* reserve(std::size_t bytes) override;
  void prefault(std::byte* begin, std::size_t bytes) noexcept override;
  void trim(std::byte* begin, std::size_t bytes) noexcept override;
  [[nodiscard]] std::unique_ptr<stream> make_stream(std::string name) override;
  [[nodiscard]] stream& compute_stream() noexcept override { return compute_; }
  void enqueue(compute_job job) override;
  [[nodiscard]] std::size_t workers() const noexcept override { return team_.workers(); }
  [[nodiscard]] std::string_view isa() const noexcept override { return isa_; }
  [[nodiscard]] std::size_t activation_bytes(activation_kind kind, std::size_t rows,
                                             std::size_t width) const noexcept override;
  [[nodiscard]] std::size_t scratch_bytes(std::size_t rows, std::size_t width,
                                          std::size_t pages) const noexcept override;
  void set_scratch(std::byte* scratch, std::size_t bytes) override;

private:
  std::string name_;
  std::string_view isa_;
  kernel_set kernels_;
  bool precise_;
  host_scratch scratch_;
  std::byte* reserved_ = nullptr;
  std::size_t reserved_bytes_ = 0;
  team team_;
  thread_stream compute_; ///< after the team: its thread runs the jobs
};

} // namespace tropilla::host
