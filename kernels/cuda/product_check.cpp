// Computes the same product with and without warpgroups, and compares the bits.
#include "kernels/cuda/product_check.hpp"

#include <algorithm>
#include <cmath>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace tropilla::cuda {
namespace {

constexpr std::size_t rows = 144, columns = 4096,
                      inputs = 200; // blocks of threads either way, and several stages a chunk

struct give_back {
  void operator()(std::byte* p) const noexcept { (void)cudaFree(p); }
};
using gpu_bytes = std::unique_ptr<std::byte, give_back>;

/// Allocates; null where there is no memory.
gpu_bytes allocate(std::size_t bytes) {
  void* p = nullptr;
  return gpu_bytes(cudaMalloc(&p, bytes) == cudaSuccess ? static_cast<std::byte*>(p) : nullptr);
}

template <class T>
gpu_bytes copied(const std::vector<T>& from) {
  gpu_bytes to = allocate(from.size() * sizeof(T));
  if (to && cudaMemcpy(to.get(), from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice) != cudaSuccess)
    to.reset();
  return to;
}

/// Computes the product; empty where CUDA fails.
std::vector<std::byte> product(const packed_matrix& weights, const activation_view& x, std::byte* rounded) {
  std::vector<std::byte> out(rows * inputs * sizeof(float));
  const gpu_bytes sums = allocate(out.size());
  if (!sums)
    return {};
  const linear_target target{weights, reinterpret_cast<float*>(sums.get()), rows, false};
  enqueue(nullptr, call::linear{x, inputs, {target}, 1, rounded});
  if (cudaGetLastError() != cudaSuccess ||
      cudaMemcpy(out.data(), sums.get(), out.size(), cudaMemcpyDeviceToHost) != cudaSuccess)
    return {};
  return out;
}

/// Makes numbers of [-1, 1), most of them small: as many as the inputs have, of which the weights take the first.
std::vector<float> make_numbers() {
  static_assert(rows <= inputs);
  std::vector<float> out(inputs * columns);
  std::uint32_t bits = 1;
  for (float& x : out) {
    bits = bits * 1664525U + 1013904223U;
    x = std::ldexp(static_cast<float>(static_cast<std::int32_t>(bits)), -31 - static_cast<int>(bits >> 8 & 15U));
  }
  return out;
}

bool agree(tensor_type type, const std::vector<float>& numbers, const activation_view& x) {
  packed_matrix weights{make_packed_layout(type, rows, columns), nullptr};
  std::vector<std::uint16_t> bits(weights.layout.bytes() / sizeof(std::uint16_t)); // in whatever order
  std::transform(numbers.begin(), numbers.begin() + static_cast<std::ptrdiff_t>(bits.size()), bits.begin(),
                 [&](float n) { return type == tensor_type::bf16 ? float_to_bf16(n) : float_to_half(n); });
  const gpu_bytes w = copied(bits), rounded = allocate(rounded_bytes(inputs, columns));
  if (!w || !rounded)
    return false;
  weights.data = w.get();
  const auto of_wgmma = product(weights, x, rounded.get()), of_mma = product(weights, x, nullptr);
  return !of_wgmma.empty() && of_wgmma == of_mma;
}

} // namespace

bool wgmma_agrees() noexcept {
  try {
    const auto numbers = make_numbers();
    const gpu_bytes x = copied(numbers);
    activation_view view;
    view.full = reinterpret_cast<float*>(x.get());
    view.full_stride = columns;
    return x && agree(tensor_type::f16, numbers, view) && agree(tensor_type::bf16, numbers, view);
  } catch (const std::exception&) { // the processor has no memory for it
    return false;
  }
}

} // namespace tropilla::cuda
