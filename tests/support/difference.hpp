// How far results are apart that were rounded in another order.
#pragma once

#include <catch2/catch.hpp>

#include <cmath>
#include <span>

namespace tropilla::testing {

/// ||a - b|| / ||b||; NaN where anything was left unwritten.
inline double difference(std::span<const float> a, std::span<const float> b) {
  REQUIRE(a.size() == b.size());
  REQUIRE_FALSE(a.empty());
  double error = 0, size = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / size);
}

} // namespace tropilla::testing
