/// Saves the logits of an evaluation in a file, to compare other runs with.
///
/// Format, little-endian: the 8 bytes "TPLLOGS1", then as 64-bit numbers the vocabulary, the window and the number of
/// positions; then per position the token's id (32 bits), the largest log-probability and the step between levels
/// (32-bit floats), and one 16-bit level per token of the vocabulary: log p = largest - step * level. A value more than
/// 24 below the largest (e^-24) is stored as 24 below it; the error is at most 24 / 65535 / 2 otherwise.
#pragma once

#include "src/files/whole_file.hpp"
#include "tropilla/types.hpp"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace tropilla::app {

struct saved_logits_header {
  std::uint64_t vocabulary = 0;
  std::uint64_t window = 0;
  std::uint64_t positions = 0;
};

/// Writes positions one after another; the file appears under its name with `finish`.
class logits_writer {
public:
  /// Throws `error` (io_error), as the others do.
  logits_writer(const std::filesystem::path& path, const saved_logits_header& header);
  void add(token_id id, std::span<const float> logits);
  void finish();

private:
  file_in_place file_;
  std::vector<std::byte> position_; ///< as it lies in the file
};

/// Reads positions in order.
class logits_reader {
public:
  /// Throws `error`: io_error, malformed_file (no such file of ours, or its size contradicts its header).
  explicit logits_reader(const std::filesystem::path& path);

  [[nodiscard]] const saved_logits_header& header() const noexcept { return header_; }
  /// The next position's token; its log-probabilities go to `out` (`vocabulary` of them).
  token_id next(std::vector<float>& out);

private:
  std::string name_;
  std::ifstream in_;
  saved_logits_header header_;
  std::vector<std::uint16_t> levels_;
};

/// log(sum(exp(logits))), in double precision.
[[nodiscard]] double log_sum_exp(std::span<const float> logits);

} // namespace tropilla::app
