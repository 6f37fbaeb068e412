// Measures read bandwidth: every thread sums its own share of a buffer in huge pages.
#include "kernels/host/read_bandwidth.hpp"

#include "kernels/host/team.hpp"
#include "memory/bytes.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <sys/mman.h>
#include <vector>

namespace tropilla::host {

double read_bandwidth(std::size_t threads, std::size_t bytes, int passes) {
  using clock = std::chrono::steady_clock;
  void* const mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    throw error(errc::io_error, fmt::format("the system refused {}: {}", format_bytes(bytes), std::strerror(errno)));
  const auto unmap = [bytes](void* p) { ::munmap(p, bytes); };
  const std::unique_ptr<void, decltype(unmap)> memory(mapped, unmap);
  ::madvise(mapped, bytes, MADV_HUGEPAGE); // a refusal costs speed only
  std::memset(mapped, 1, bytes);
  team t(threads, "read");
  std::vector<std::uint64_t> found(t.workers() * 8); // so that no sum is left out; a cache line each
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = clock::now();
    t.run([&](worker_context& worker) {
      const std::size_t words = bytes / sizeof(std::uint64_t) / worker.workers();
      const auto* p = static_cast<const std::uint64_t*>(mapped) + words * worker.worker();
      std::uint64_t sum[8] = {};
      for (std::size_t i = 0; i + 8 <= words; i += 8)
        for (std::size_t j = 0; j < 8; ++j)
          sum[j] ^= p[i + j];
      for (const std::uint64_t s : sum)
        found[worker.worker() * 8] += s;
    });
    best = std::max(best, static_cast<double>(bytes) / std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

} // namespace tropilla::host
