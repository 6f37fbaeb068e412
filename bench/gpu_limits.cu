// Measures a GPU's limits: its memory's bandwidth, copies from pinned memory, and the peak of cuBLAS in bfloat16. As
// JSON.
//
//   bench_gpu_limits [device]
//
// Medians of repetitions, timed with events after a warm-up, over buffers that no cache holds, of random bits. cuBLASLt
// is loaded when it is there; where it is not, its figure is missing.
#include <cublasLt.h>
#include <cuda_runtime.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void check(cudaError_t result, const char* what) {
  if (result == cudaSuccess)
    return;
  std::fprintf(stderr, "bench_gpu_limits: %s: %s\n", what, cudaGetErrorString(result));
  std::exit(2);
}

__global__ void fill(std::uint32_t* to, std::size_t count, std::uint32_t mask, std::uint32_t ones) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    auto x = static_cast<std::uint32_t>(i * 2654435761U);
    x ^= x >> 15;
    to[i] = ((x * 2246822519U) & mask) | ones;
  }
}

__global__ void read_all(const uint4* from, std::size_t count, std::uint32_t* sums) {
  const std::size_t step = std::size_t{gridDim.x} * blockDim.x;
  std::uint32_t sum = 0;
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i + 3 * step < count; i += 4 * step)
    for (int k = 0; k < 4; ++k) {
      const uint4 v = from[i + k * step];
      sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
  if (sum == 1) // so that nothing is left out
    sums[threadIdx.x] = sum;
}

/// Median seconds of `work` on `stream`.
template <class F>
double seconds_of(cudaStream_t stream, F work) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "an event");
  check(cudaEventCreate(&end), "an event");
  std::vector<float> times;
  for (int i = 0; i < 12; ++i) {
    check(cudaEventRecord(begin, stream), "recording");
    work();
    check(cudaEventRecord(end, stream), "recording");
    check(cudaEventSynchronize(end), "waiting");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    if (i >= 2)
      times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  return 1e-3 * times[times.size() / 2];
}

/// Operations per second of a product of three bfloat16 matrices of 8192 x 8192; 0: there is no cuBLASLt.
double matrix_peak(cudaStream_t stream) {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
    if (library == nullptr)
      library = dlopen(name, RTLD_NOW);
  if (library == nullptr)
    return 0;
  const auto create = reinterpret_cast<decltype(&cublasLtCreate)>(dlsym(library, "cublasLtCreate"));
  const auto make_operation =
      reinterpret_cast<decltype(&cublasLtMatmulDescCreate)>(dlsym(library, "cublasLtMatmulDescCreate"));
  const auto set_operation =
      reinterpret_cast<decltype(&cublasLtMatmulDescSetAttribute)>(dlsym(library, "cublasLtMatmulDescSetAttribute"));
  const auto make_layout =
      reinterpret_cast<decltype(&cublasLtMatrixLayoutCreate)>(dlsym(library, "cublasLtMatrixLayoutCreate"));
  const auto multiply = reinterpret_cast<decltype(&cublasLtMatmul)>(dlsym(library, "cublasLtMatmul"));
  cublasLtHandle_t handle = nullptr;
  if (!create || !make_operation || !set_operation || !make_layout || !multiply ||
      create(&handle) != CUBLAS_STATUS_SUCCESS)
    return 0;
  constexpr std::uint64_t n = 8192;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
  const cublasOperation_t transposed = CUBLAS_OP_T; // weights lie by rows
  if (make_operation(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS ||
      set_operation(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) != CUBLAS_STATUS_SUCCESS ||
      make_layout(&layout, CUDA_R_16BF, n, n, n) != CUBLAS_STATUS_SUCCESS)
    return 0;
  std::uint32_t* memory = nullptr;
  check(cudaMalloc(&memory, 3 * n * n * 2), "memory for matrices");
  fill<<<1024, 256, 0, stream>>>(memory, 3 * n * n / 2, 0x80FF80FFU,
                                 0x3F003F00U); // of either sign from 1/2 to 2: zeros take less power, and so less time
  auto* const at = reinterpret_cast<std::uint16_t*>(memory);
  const float one = 1, zero = 0;
  bool works = true;
  const double seconds = seconds_of(stream, [&] {
    works = works && multiply(handle, operation, &one, at, layout, at + n * n, layout, &zero, at + 2 * n * n, layout,
                              at + 2 * n * n, layout, nullptr, nullptr, 0, stream) == CUBLAS_STATUS_SUCCESS;
  });
  check(cudaFree(memory), "giving memory back");
  return works ? 2.0 * n * n * n / seconds : 0;
}

} // namespace

int main(int count, char** arguments) {
  const int device = count > 1 ? std::atoi(arguments[1]) : 0;
  check(cudaSetDevice(device), "choosing the GPU");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "asking for the GPU");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream), "a stream");
  constexpr std::size_t bytes = std::size_t{2} << 30, pinned_bytes = std::size_t{512} << 20;
  std::uint32_t* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "2 GiB of memory");
  fill<<<1024, 256, 0, stream>>>(memory, bytes / 4, 0xFFFFFFFFU, 0);
  const auto blocks = static_cast<unsigned>(properties.multiProcessorCount * 8);
  const double read = seconds_of(stream, [&] {
    read_all<<<blocks, 256, 0, stream>>>(reinterpret_cast<const uint4*>(memory), bytes / 16, memory);
  });
  check(cudaGetLastError(), "reading");
  void* pinned = nullptr;
  check(cudaHostAlloc(&pinned, pinned_bytes, cudaHostAllocDefault), "pinned memory");
  for (std::size_t i = 0; i < pinned_bytes / 4; ++i)
    static_cast<std::uint32_t*>(pinned)[i] = static_cast<std::uint32_t>(i * 2654435761U);
  const double up = seconds_of(
      stream, [&] { check(cudaMemcpyAsync(memory, pinned, pinned_bytes, cudaMemcpyHostToDevice, stream), "a copy"); });
  check(cudaFree(memory), "giving memory back");
  const double peak = matrix_peak(stream);
  std::printf("{\"device\": \"%s\", \"compute_capability\": \"%d.%d\", \"read_bytes_s\": %.4g, "
              "\"host_to_device_bytes_s\": %.4g, \"bf16_operations_s\": %.4g}\n",
              properties.name, properties.major, properties.minor, static_cast<double>(bytes) / read,
              static_cast<double>(pinned_bytes) / up, peak);
  return 0;
}
