// A GPU on the processor: its memory can be used only where it is mapped, its kernels are the emulated ones, its
// streams do at once what they are told. Calls can be made to fail.
#pragma once

#include "kernels/cuda/emulation.hpp"
#include "kernels/cuda/gpu_api.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fmt/format.h>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <sys/mman.h>

namespace tropilla::testing {

/// What tests count and spoil, of all GPUs that share it.
struct gpu_script {
  std::size_t memory_bytes = std::size_t{1} << 30;
  std::atomic<std::int64_t> mapped = 0;      ///< granules
  std::atomic<std::int64_t> host_blocks = 0; ///< not given back
  std::atomic<std::int64_t> streams = 0;
  std::atomic<std::int64_t> maps = 0;         ///< that were asked for
  std::atomic<std::int64_t> allocations = 0;  ///< that were asked for: of memory, addresses, streams and graphs
  std::atomic<std::int64_t> synchronized = 0; ///< that were asked for
  std::atomic<std::int64_t> copied = 0;       ///< bytes
  std::atomic<std::int64_t> copies_between_gpus = 0;
  std::atomic<std::int64_t> graphs = 0;
  std::atomic<std::int64_t> launched_graphs = 0;
  bool refuse_graphs = false;
  std::int64_t refuse_allocation = 0; ///< the n-th; 0: none
  bool refuse_from_then_on = false;   ///< and all after it
  std::size_t granule = std::size_t{64} << 10;
  std::atomic<std::int64_t> fail_at = 0; ///< synchronisations from the n-th on report a fault of a kernel; 0: none
};

class emulated_gpu final : public cuda::gpu_api {
public:
  explicit emulated_gpu(std::shared_ptr<gpu_script> s) : script_(std::move(s)) {}

  std::string architecture() const override { return "emulated"; }
  void enter() override {}
  std::size_t free_bytes() const override {
    const std::size_t taken = static_cast<std::size_t>(script_->mapped) * granule();
    return script_->memory_bytes - std::min<std::size_t>(script_->memory_bytes, taken);
  }
  bool has_wgmma() const noexcept override { return true; }

  std::byte* reserve(std::size_t bytes) override {
    allocate("reserve", bytes);
    void* const at = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      fail("reserve", bytes);
    return static_cast<std::byte*>(at);
  }
  void release(std::byte* base, std::size_t bytes) noexcept override { ::munmap(base, bytes); }
  std::size_t granule() const noexcept override { return script_->granule; }
  void map(std::byte* at) override {
    ++script_->maps;
    allocate("map", granule());
    if (free_bytes() < granule())
      fail("map", granule());
    ::mprotect(at, granule(), PROT_READ | PROT_WRITE);
    ++script_->mapped;
  }
  void unmap(std::byte* at) noexcept override {
    ::madvise(at, granule(), MADV_DONTNEED);
    ::mprotect(at, granule(), PROT_NONE);
    --script_->mapped;
  }

  std::byte* allocate_host(std::size_t bytes) override {
    allocate("allocate_host", bytes);
    ++script_->host_blocks;
    return static_cast<std::byte*>(::operator new (bytes, std::align_val_t{4096}));
  }
  void free_host(std::byte* memory) noexcept override {
    --script_->host_blocks;
    ::operator delete (memory, std::align_val_t{4096});
  }

  void* make_stream() override {
    allocate("make_stream", 0);
    ++script_->streams;
    return this;
  }
  void end_stream(void*) noexcept override { --script_->streams; }
  void enqueue(void* stream, const cuda::kernel_call& c) override { cuda_emulated::enqueue(stream, c); }
  void copy(void* stream, const void* from, void* to, std::size_t bytes) override {
    script_->copied += static_cast<std::int64_t>(bytes);
    cuda_emulated::emulation::run_or_keep(stream, [=] { std::memcpy(to, from, bytes); });
  }
  void copy_from(const gpu_api&, void*, const void* from, void* to, std::size_t bytes) override {
    ++script_->copies_between_gpus;
    std::memcpy(to, from, bytes);
  }
  void synchronize(void*) override {
    const auto n = ++script_->synchronized;
    if (script_->fail_at > 0 && n >= script_->fail_at)
      fail("a kernel", 0);
  }

  void begin_capture(void* stream) override {
    if (script_->refuse_graphs)
      fail("a capture", 0);
    captured_ = std::make_unique<cuda_emulated::emulation::kept_work>();
    cuda_emulated::emulation::keep(stream, captured_.get());
  }
  void* end_capture(void* stream) override {
    cuda_emulated::emulation::keep(stream, nullptr);
    const auto captured = std::move(captured_);
    allocate("end_capture", 0);
    ++script_->graphs;
    return new cuda_emulated::emulation::kept_work(std::move(*captured));
  }
  void launch(void* graph, void*) override {
    ++script_->launched_graphs;
    for (const auto& work : *static_cast<cuda_emulated::emulation::kept_work*>(graph))
      work();
  }
  void end_graph(void* graph) noexcept override {
    --script_->graphs;
    delete static_cast<cuda_emulated::emulation::kept_work*>(graph);
  }

private:
  /// Counts an allocation, and refuses it if the script says so.
  void allocate(const char* call, std::size_t bytes) {
    const auto n = ++script_->allocations, refused = script_->refuse_allocation;
    if (refused > 0 && (n == refused || (script_->refuse_from_then_on && n > refused)))
      fail(call, bytes);
  }

  [[noreturn]] static void fail(const char* call, std::size_t bytes) {
    throw error(errc::device_failed, fmt::format("emulated GPU: {} of {} bytes failed", call, bytes));
  }

  std::shared_ptr<gpu_script> script_;
  std::unique_ptr<cuda_emulated::emulation::kept_work> captured_;
};

} // namespace tropilla::testing
