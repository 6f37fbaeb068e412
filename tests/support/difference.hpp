// How far results are apart that were rounded in another order.
#pragma once

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
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

/// KL(wanted || found) of two rows of logits, in nats.
inline double divergence(std::span<const float> found, std::span<const float> wanted) {
  REQUIRE(found.size() == wanted.size());
  const auto total_of = [](std::span<const float> row) {
    const double most = static_cast<double>(*std::ranges::max_element(row));
    double sum = 0;
    for (const float x : row)
      sum += std::exp(static_cast<double>(x) - most);
    return most + std::log(sum);
  };
  const double of_found = total_of(found), of_wanted = total_of(wanted);
  double out = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double expected = static_cast<double>(wanted[i]) - of_wanted;
    out += std::exp(expected) * (expected - (static_cast<double>(found[i]) - of_found));
  }
  return std::max(out, 0.0);
}

} // namespace tropilla::testing
