// Fills rotary tables.
#include "src/model/rope.hpp"

#include "memory/rounding.hpp"

#include <cmath>
#include <vector>

namespace tropilla {
namespace {

std::size_t half_table_bytes(const rope_config& rope, std::size_t positions) noexcept {
  return round_up(positions * (rope.dims / 2) * sizeof(float), 64);
}

} // namespace

std::size_t rope_table_bytes(const rope_config& rope, std::size_t positions) noexcept {
  return 2 * half_table_bytes(rope, positions);
}

rope_table make_rope_table(const rope_config& rope, std::size_t positions, std::byte* memory) {
  const std::size_t pairs = rope.dims / 2;
  auto* cosines = reinterpret_cast<float*>(memory);
  auto* sines = reinterpret_cast<float*>(memory + half_table_bytes(rope, positions));
  std::vector<double> frequency(pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    frequency[i] = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.dims));
    frequency[i] /= rope.linear_scale * (rope.factors.empty() ? 1.0 : static_cast<double>(rope.factors[i]));
  }
  for (std::size_t p = 0; p < positions; ++p)
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(p) * frequency[i];
      cosines[p * pairs + i] = static_cast<float>(std::cos(angle));
      sines[p * pairs + i] = static_cast<float>(std::sin(angle));
    }
  return {cosines, sines, positions, rope.dims};
}

} // namespace tropilla
