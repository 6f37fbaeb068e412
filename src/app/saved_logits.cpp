// One position after another, 16 bits per token of the vocabulary.
#include "src/app/saved_logits.hpp"

#include "src/app/files.hpp"

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

template <class T>
void put(std::ofstream& out, const T& value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
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

logits_writer::logits_writer(std::filesystem::path path, const saved_logits_header& header)
    : path_(std::move(path)), partial_(path_.string() + ".partial"), out_(partial_, std::ios::binary) {
  if (!out_)
    throw_system_error("write", partial_.string(), errno);
  out_.write(magic.data(), magic.size());
  put(out_, header.vocabulary);
  put(out_, header.window);
  put(out_, header.positions);
}

logits_writer::~logits_writer() {
  if (!out_.is_open())
    return;
  out_.close();
  std::error_code ignored;
  std::filesystem::remove(partial_, ignored);
}

void logits_writer::add(token_id id, std::span<const float> logits) {
  const double total = log_sum_exp(logits);
  const double top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  const auto step = static_cast<float>(range / 65535);
  levels_.resize(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i)
    levels_[i] = static_cast<std::uint16_t>(
        std::lround(std::clamp((top - static_cast<double>(logits[i])) / static_cast<double>(step), 0.0, 65535.0)));
  put(out_, id);
  put(out_, static_cast<float>(top - total));
  put(out_, step);
  out_.write(reinterpret_cast<const char*>(levels_.data()), static_cast<std::streamsize>(levels_.size() * 2));
  if (!out_)
    throw_system_error("write", partial_.string(), errno);
}

void logits_writer::finish() {
  out_.close();
  if (!out_)
    throw_system_error("write", partial_.string(), errno);
  std::error_code failure;
  std::filesystem::rename(partial_, path_, failure);
  if (failure)
    throw_system_error("write", path_.string(), failure.value());
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
