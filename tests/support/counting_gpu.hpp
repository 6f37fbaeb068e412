/// A GPU that passes everything on, and counts what allocates.
#pragma once

#include "kernels/cuda/gpu_api.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

namespace tropilla::testing {

class counting_gpu final : public cuda::gpu_api {
public:
  using counter = std::shared_ptr<std::atomic<std::int64_t>>;

  counting_gpu(std::unique_ptr<cuda::gpu_api> gpu, counter allocations)
      : gpu_(std::move(gpu)), allocations_(std::move(allocations)) {}

  std::string architecture() const override { return gpu_->architecture(); }
  void enter() override { gpu_->enter(); }
  std::size_t free_bytes() const override { return gpu_->free_bytes(); }
  bool has_wgmma() const noexcept override { return gpu_->has_wgmma(); }
  std::byte* reserve(std::size_t bytes) override { return counted(gpu_->reserve(bytes)); }
  void release(std::byte* base, std::size_t bytes) noexcept override { gpu_->release(base, bytes); }
  std::size_t granule() const noexcept override { return gpu_->granule(); }
  void map(std::byte* at) override {
    ++*allocations_;
    gpu_->map(at);
  }
  void unmap(std::byte* at) noexcept override { gpu_->unmap(at); }
  std::byte* allocate_host(std::size_t bytes) override { return counted(gpu_->allocate_host(bytes)); }
  void free_host(std::byte* memory) noexcept override { gpu_->free_host(memory); }
  void* make_stream() override { return counted(gpu_->make_stream()); }
  void end_stream(void* stream) noexcept override { gpu_->end_stream(stream); }
  void enqueue(void* stream, const cuda::kernel_call& c) override { gpu_->enqueue(stream, c); }
  void copy(void* stream, const void* from, void* to, std::size_t bytes) override {
    gpu_->copy(stream, from, to, bytes);
  }
  void copy_from(const gpu_api& other, void* stream, const void* from, void* to, std::size_t bytes) override {
    gpu_->copy_from(*dynamic_cast<const counting_gpu&>(other).gpu_, stream, from, to, bytes);
  }
  void synchronize(void* stream) override { gpu_->synchronize(stream); }
  void begin_capture(void* stream) override { gpu_->begin_capture(stream); }
  void* end_capture(void* stream) override { return counted(gpu_->end_capture(stream)); }
  void launch(void* graph, void* stream) override { gpu_->launch(graph, stream); }
  void end_graph(void* graph) noexcept override { gpu_->end_graph(graph); }

private:
  template <class T>
  T counted(T made) {
    ++*allocations_;
    return made;
  }

  std::unique_ptr<cuda::gpu_api> gpu_;
  counter allocations_;
};

} // namespace tropilla::testing
