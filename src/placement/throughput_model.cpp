// Keeps running means, and draws lines between them.
#include "src/placement/throughput_model.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace tropilla {
namespace {

constexpr double newest_share = 0.125; ///< of a running mean

/// What a sequence adds to a step, as a share of the step of one sequence; used beyond the numbers of sequences that
/// were measured. Not measured itself: weights are read once for all sequences, and their arithmetic grows.
constexpr double added_by_sequence = 0.3;

double relative_seconds(std::size_t sequences) {
  return 1 + added_by_sequence * (static_cast<double>(sequences) - 1);
}

bool is_time(double seconds) {
  return std::isfinite(seconds) && seconds > 0;
}

} // namespace

void throughput_model::step_computed(std::size_t sequences, std::size_t streamed_bytes, const step_seconds& took) {
  if (sequences == 0 || !is_time(took.compute))
    return;
  const auto [it, is_first] = seconds_.try_emplace(sequences, took.compute);
  if (!is_first)
    it->second += (took.compute - it->second) * newest_share;
  const auto overlapped = overlapped_seconds(sequences, streamed_bytes);
  if (streamed_bytes == 0 || !is_time(took.whole) || !overlapped)
    return;
  constexpr double max_factor = 4; // one slow step says little
  streaming_factor_ += (std::clamp(took.whole / *overlapped, 1.0, max_factor) - streaming_factor_) * newest_share;
}

void throughput_model::weights_read(std::size_t bytes, double seconds) {
  if (bytes == 0 || !is_time(seconds))
    return;
  // Sums, and not a mean of speeds: a small read says little about large ones.
  read_bytes_ += static_cast<double>(bytes) - read_bytes_ * newest_share;
  read_seconds_ += seconds - read_seconds_ * newest_share;
}

std::optional<double> throughput_model::compute_seconds(std::size_t sequences) const {
  if (seconds_.empty())
    return std::nullopt;
  const auto above = seconds_.lower_bound(sequences);
  const auto scaled = [&](const auto& measured) {
    return measured.second * relative_seconds(sequences) / relative_seconds(measured.first);
  };
  if (above == seconds_.end())
    return scaled(*std::prev(above));
  if (above->first == sequences || above == seconds_.begin())
    return scaled(*above);
  const auto below = std::prev(above);
  const double share = static_cast<double>(sequences - below->first) / static_cast<double>(above->first - below->first);
  return below->second + (above->second - below->second) * share;
}

std::optional<double> throughput_model::read_seconds(std::size_t bytes) const {
  if (bytes == 0)
    return 0;
  if (read_seconds_ <= 0)
    return std::nullopt;
  return static_cast<double>(bytes) * read_seconds_ / read_bytes_;
}

std::optional<double> throughput_model::overlapped_seconds(std::size_t sequences, std::size_t streamed_bytes) const {
  const auto compute = compute_seconds(sequences);
  const auto read = read_seconds(streamed_bytes);
  if (!compute || !read)
    return std::nullopt;
  return std::max(*compute, *read);
}

std::optional<double> throughput_model::tokens_per_second(std::size_t sequences, std::size_t streamed_bytes) const {
  const auto overlapped = overlapped_seconds(sequences, streamed_bytes);
  if (!overlapped)
    return std::nullopt;
  return static_cast<double>(sequences) / (*overlapped * (streamed_bytes > 0 ? streaming_factor_ : 1));
}

} // namespace tropilla
