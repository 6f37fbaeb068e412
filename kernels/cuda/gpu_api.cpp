// Implements `gpu_api` with the CUDA runtime and the driver's calls for virtual memory, which the runtime finds.
#include "kernels/cuda/gpu_api.hpp"

#include "kernels/cuda/gpus.hpp"
#include "kernels/cuda/product_check.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <vector>

#ifdef TROPILLA_HAS_CUDA

#include <cuda.h>
#include <cuda_runtime_api.h>

namespace tropilla::cuda {
namespace {

#ifdef TROPILLA_HAS_SM_90A
constexpr bool built_for_wgmma = true;
#else
constexpr bool built_for_wgmma = false;
#endif

/// Finds a driver's function by its name. The program links no driver, since it may run where there is none.
template <class Function>
Function driver_call(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  if (cudaGetDriverEntryPointByVersion(name, &found, CUDART_VERSION, cudaEnableDefault, &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess)
    throw error(errc::unsupported, fmt::format("the NVIDIA driver lacks {}; update it", name));
  return reinterpret_cast<Function>(found);
}

class real_gpu final : public gpu_api {
public:
  explicit real_gpu(const gpu& g) : index_(g.index), architecture_(g.architecture) {
    use();
    allow_access_of(index_);
    for (const int peer : g.peers)
      allow_access_of(peer);
    place_ = {};
    place_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    place_.location = {CU_MEM_LOCATION_TYPE_DEVICE, {index_}};
    check(granularity_(&granule_, &place_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED), "cuMemGetAllocationGranularity", 0);
    has_wgmma_ = built_for_wgmma && architecture_ == "sm_90" && !turned_off("TROPILLA_CUDA_WGMMA") && wgmma_agrees();
    (void)cudaGetLastError(); // that there was no memory to find out, for one
  }

  std::string architecture() const override { return architecture_; }
  void enter() override { use(); }
  std::size_t free_bytes() const override {
    use();
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", 0);
    return free;
  }
  bool has_wgmma() const noexcept override { return has_wgmma_; }

  std::byte* reserve(std::size_t bytes) override {
    use();
    CUdeviceptr at = 0;
    check(reserve_(&at, bytes, granule_, 0, 0), "cuMemAddressReserve", bytes);
    return reinterpret_cast<std::byte*>(at);
  }
  void release(std::byte* base, std::size_t bytes) noexcept override {
    (void)release_(reinterpret_cast<CUdeviceptr>(base), bytes);
  }
  std::size_t granule() const noexcept override { return granule_; }
  void map(std::byte* at) override {
    use();
    const auto where = reinterpret_cast<CUdeviceptr>(at);
    CUmemGenericAllocationHandle memory{};
    check(create_(&memory, granule_, &place_, 0), "cuMemCreate", granule_);
    const CUresult mapped = map_(where, granule_, 0, memory, 0);
    (void)forget_(memory); // the mapping keeps it
    check(mapped, "cuMemMap", granule_);
    if (const CUresult allowed = allow_(where, granule_, access_.data(), access_.size()); allowed != CUDA_SUCCESS) {
      (void)unmap_(where, granule_);
      check(allowed, "cuMemSetAccess", granule_);
    }
  }
  void unmap(std::byte* at) noexcept override { (void)unmap_(reinterpret_cast<CUdeviceptr>(at), granule_); }

  std::byte* allocate_host(std::size_t bytes) override {
    use();
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "cudaHostAlloc", bytes);
    return static_cast<std::byte*>(memory);
  }
  void free_host(std::byte* memory) noexcept override {
    (void)cudaSetDevice(index_); // a thread that has none yet would begin with the first GPU
    (void)cudaFreeHost(memory);
  }

  void* make_stream() override {
    use();
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "cudaStreamCreateWithFlags", 0);
    return s;
  }
  void end_stream(void* stream) noexcept override {
    (void)cudaSetDevice(index_);
    (void)cudaStreamDestroy(static_cast<cudaStream_t>(stream));
  }
  void enqueue(void* stream, const kernel_call& c) override { cuda::enqueue(stream, c); }
  void copy(void* stream, const void* from, void* to, std::size_t bytes) override {
    use();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)), "cudaMemcpyAsync",
          bytes);
  }
  void copy_from(const gpu_api& other, void* stream, const void* from, void* to, std::size_t bytes) override {
    use();
    check(cudaMemcpyPeerAsync(to, index_, from, static_cast<const real_gpu&>(other).index_, bytes,
                              static_cast<cudaStream_t>(stream)),
          "cudaMemcpyPeerAsync", bytes);
  }
  void synchronize(void* stream) override {
    use();
    check(cudaGetLastError(), "a kernel's launch", 0);
    check(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "cudaStreamSynchronize", 0);
  }

  void begin_capture(void* stream) override {
    use();
    // Other threads go on to map memory and to copy.
    check(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture", 0);
  }
  void* end_capture(void* stream) override {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph), "cudaStreamEndCapture", 0);
    cudaGraphExec_t made = nullptr;
    const cudaError_t result = cudaGraphInstantiate(&made, graph, 0);
    (void)cudaGraphDestroy(graph);
    check(result, "cudaGraphInstantiate", 0);
    return made;
  }
  void launch(void* graph, void* stream) override {
    use();
    check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)), "cudaGraphLaunch",
          0);
  }
  void end_graph(void* graph) noexcept override {
    (void)cudaSetDevice(index_);
    (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
  }

private:
  void allow_access_of(int gpu) {
    CUmemAccessDesc access{};
    access.location = {CU_MEM_LOCATION_TYPE_DEVICE, {gpu}};
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    access_.push_back(access);
  }
  /// Makes this the calling thread's GPU: threads begin with the first.
  void use() const { check(cudaSetDevice(index_), "cudaSetDevice", 0); }

  [[noreturn]] void fail(const char* call, std::size_t bytes, const std::string& what, bool out_of_memory) const {
    // The error is reported here; it must not come again when this thread asks how a kernel's launch went.
    (void)cudaGetLastError();
    throw error(out_of_memory ? errc::over_budget : errc::device_failed,
                fmt::format("cuda:{}: {}{} failed: {}; {}", index_, call,
                            bytes > 0 ? fmt::format(" of {} bytes", bytes) : "", what,
                            out_of_memory ? "lower the budget or the bytes to be pinned, or end what holds the rest"
                                          : "this process can't use the device any more, start it again"));
  }
  void check(cudaError_t result, const char* call, std::size_t bytes) const {
    if (result != cudaSuccess)
      fail(call, bytes, fmt::format("{} ({})", cudaGetErrorString(result), cudaGetErrorName(result)),
           result == cudaErrorMemoryAllocation);
  }
  void check(CUresult result, const char* call, std::size_t bytes) const {
    if (result != CUDA_SUCCESS)
      fail(call, bytes, fmt::format("CUDA error {}", static_cast<int>(result)), result == CUDA_ERROR_OUT_OF_MEMORY);
  }

  int index_;
  std::string architecture_;
  bool has_wgmma_ = false;
  CUmemAllocationProp place_{};
  std::vector<CUmemAccessDesc> access_; ///< of this GPU and its peers
  std::size_t granule_ = 0;
  decltype(&cuMemGetAllocationGranularity) granularity_ =
      driver_call<decltype(&cuMemGetAllocationGranularity)>("cuMemGetAllocationGranularity");
  decltype(&cuMemAddressReserve) reserve_ = driver_call<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
  decltype(&cuMemAddressFree) release_ = driver_call<decltype(&cuMemAddressFree)>("cuMemAddressFree");
  decltype(&cuMemCreate) create_ = driver_call<decltype(&cuMemCreate)>("cuMemCreate");
  decltype(&cuMemRelease) forget_ = driver_call<decltype(&cuMemRelease)>("cuMemRelease");
  decltype(&cuMemMap) map_ = driver_call<decltype(&cuMemMap)>("cuMemMap");
  decltype(&cuMemUnmap) unmap_ = driver_call<decltype(&cuMemUnmap)>("cuMemUnmap");
  decltype(&cuMemSetAccess) allow_ = driver_call<decltype(&cuMemSetAccess)>("cuMemSetAccess");
};

} // namespace
} // namespace tropilla::cuda

#endif

namespace tropilla::cuda {

std::unique_ptr<gpu_api> open_gpu(int index) {
  const auto count = count_gpus(); // of the others nothing is asked, which would make contexts on them
  if (count.gpus == 0)
    throw error(errc::unsupported, fmt::format("cuda:{} can't be used: {}", index, count.none_because));
  if (index < 0 || index >= count.gpus)
    throw error(errc::invalid_argument,
                fmt::format("there is no cuda:{}; this machine has cuda:0 to cuda:{} (tropilla devices lists them)",
                            index, count.gpus - 1));
  const gpu g = describe_gpu(index, count.gpus);
  if (!g.problem.empty())
    throw error(errc::unsupported, fmt::format("cuda:{} ({}) can't be used: {}", index, g.name, g.problem));
#ifdef TROPILLA_HAS_CUDA
  return std::make_unique<real_gpu>(g);
#else
  return nullptr; // not reached: such a program sees no GPU
#endif
}

} // namespace tropilla::cuda
