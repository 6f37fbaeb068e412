// Writes and reads one position after another, 16 bits per token of the vocabulary.
#include "app/saved_logits.hpp"

#include "app/files.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fmt/format.h>

namespace tropilla::app {
namespace {

constexpr std::array<char, 8> magic{'T', 'P', 'L', 'L', 'O', 'G', 'S', '1'};
constexpr double range = 24; // log-probabilities this far below the largest are all the same to a divergence
constexpr std::uint64_t header_bytes = magic.size() + 3 * sizeof(std::uint64_t);

std::uint64_t position_bytes(std::uint64_t vocabulary) {
  return sizeof(token_id) + 2 * sizeof(float) + vocabulary * sizeof(std::uint16_t);
}

template <class T, std::size_t N>
void put(std::vector<std::byte>& out, std::span<T, N> values) {
  const auto bytes = std::as_bytes(values);
  out.insert(out.end(), bytes.begin(), bytes.end());
}
template <class T>
void get(std::ifstream& in, T& value) {
  in.read(reinterpret_cast<char*>(&value), sizeof value);
}

} // namespace

double log_sum_exp(std::span<const float> logits) {
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float l : logits)
    sum += std::exp(static_cast<double>(l) - top);
  return top + std::log(sum);
}

logits_writer::logits_writer(const std::filesystem::path& path, const saved_logits_header& header)
    : file_(path, file_in_place::usual) {
  std::vector<std::byte> begin;
  put(begin, std::span(magic));
  put(begin, std::span(&header.vocabulary, 1));
  put(begin, std::span(&header.window, 1));
  put(begin, std::span(&header.positions, 1));
  file_.write(begin);
}

void logits_writer::add(token_id id, std::span<const float> logits) {
  const double total = log_sum_exp(logits);
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  const auto step = static_cast<float>(range / 65535);
  const auto largest = static_cast<float>(top - total);
  position_.clear();
  put(position_, std::span(&id, 1));
  put(position_, std::span(&largest, 1));
  put(position_, std::span(&step, 1));
  for (const float l : logits) {
    const auto level = static_cast<std::uint16_t>(
        std::lround(std::clamp((top - static_cast<double>(l)) / static_cast<double>(step), 0.0, 65535.0)));
    put(position_, std::span(&level, 1));
  }
  file_.write(position_);
}

void logits_writer::finish() {
  file_.commit();
}

logits_reader::logits_reader(const std::filesystem::path& path) : name_(path.string()), in_(path, std::ios::binary) {
  if (!in_)
    throw_system_error("read", name_, errno);
  std::error_code failure;
  const std::uint64_t size = std::filesystem::file_size(path, failure);
  std::array<char, magic.size()> begin{};
  get(in_, begin);
  get(in_, header_.vocabulary);
  get(in_, header_.window);
  get(in_, header_.positions);
  const bool ours = in_ && begin == magic;
  // Held against the size first: nothing is allocated for a vocabulary that the file can't hold.
  if (failure || !ours || header_.vocabulary == 0 || header_.positions == 0 || header_.vocabulary > size ||
      header_.positions > size || size != header_bytes + header_.positions * position_bytes(header_.vocabulary))
    throw error(
        errc::malformed_file,
        fmt::format("{} holds no saved logits, or was cut short: make it with tropilla eval --save-logits", name_));
  levels_.resize(header_.vocabulary);
}

token_id logits_reader::next(std::vector<float>& out) {
  token_id id = 0;
  float top = 0, step = 0;
  get(in_, id);
  get(in_, top);
  get(in_, step);
  in_.read(reinterpret_cast<char*>(levels_.data()), static_cast<std::streamsize>(levels_.size() * 2));
  if (!in_)
    throw error(errc::io_error, fmt::format("{} ended early", name_));
  out.resize(levels_.size());
  for (std::size_t i = 0; i < levels_.size(); ++i)
    out[i] = top - step * static_cast<float>(levels_[i]);
  return id;
}

} // namespace tropilla::app
