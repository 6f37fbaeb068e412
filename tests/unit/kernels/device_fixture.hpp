/// What the tests of the host's kernels share: random data, instruction sets, running operations on a team.
#pragma once

#include "kernels/host/cpu_features.hpp"
#include "kernels/host/host_ops.hpp"

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace tropilla::host::testing {

/// Workers to compare. Sanitizers make everything ten times as slow, and see in two counts what there is to see.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline const std::vector<std::size_t> worker_counts{2, 5};
#else
inline const std::vector<std::size_t> worker_counts{1, 2, 3, 5};
#endif

/// Memory that starts at a cache line, filled with a pattern that no kernel writes (a NaN as float).
class aligned_bytes {
public:
  explicit aligned_bytes(std::size_t bytes)
      : storage_(bytes + 64),
        data_(storage_.data() + (64 - reinterpret_cast<std::uintptr_t>(storage_.data()) % 64) % 64), size_(bytes) {
    std::memset(data_, 0xFF, bytes);
  }
  aligned_bytes(aligned_bytes&&) noexcept = default;
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  friend bool operator==(const aligned_bytes& a, const aligned_bytes& b) {
    return a.size_ == b.size_ && std::memcmp(a.data_, b.data_, a.size_) == 0;
  }

private:
  std::vector<std::byte> storage_;
  std::byte* data_;
  std::size_t size_;
};

inline std::vector<float> random_floats(std::size_t count, std::uint32_t seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(count);
  for (auto& x : out)
    x = normal(engine);
  return out;
}

/// A packed float32 matrix.
class packed_floats {
public:
  packed_floats(std::size_t rows, std::size_t columns, std::span<const float> values)
      : layout_(make_packed_layout(tensor_type::f32, rows, columns)), data_(layout_.bytes()) {
    pack_panels(layout_, 0, layout_.panels(), std::as_bytes(values), data_.data());
  }
  [[nodiscard]] packed_matrix view() const { return {layout_, data_.data()}; }

private:
  packed_layout layout_;
  aligned_bytes data_;
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// An instruction set that can be tested here. AVX-512 is emulated where the machine lacks it.
struct variant {
  std::string name;
  kernel_set kernels;
};

inline std::vector<variant> variants() {
  std::vector<variant> out{{"scalar", kernels_of("scalar")}};
  if (has_isa("avx2")) {
    out.push_back({"avx2", kernels_of("avx2")});
#ifdef TROPILLA_HAS_EMULATED_AVX512
    out.push_back(
        {"avx512 (emulated)", {&avx512_emulated::rows(), &avx512_emulated::attention(), kernels_of("scalar").linear}});
#endif
  }
  if (has_isa("avx512"))
    out.push_back({"avx512", kernels_of("avx512")});
  return out;
}

/// Runs `job` with the operations of each worker of a team of `workers` threads.
inline void with_ops(const kernel_set& kernels, std::size_t workers, bool precise,
                     const std::function<void(ops&)>& job) {
  team t(workers, "test");
  const aligned_bytes memory(host_scratch::bytes(workers));
  const auto scratch = host_scratch::divide(memory.data(), memory.size(), workers);
  t.run([&](worker_context& worker) {
    host_ops o(worker, kernels, scratch, precise);
    job(o);
  });
}

} // namespace tropilla::host::testing
