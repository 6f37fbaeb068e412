/// Provides the weights of a run of bench_ablation: all in memory or streamed, read when they are needed or ahead of
/// that.
#pragma once

#include "bench/ablation_memory.hpp"
#include "src/io/weight_loader.hpp"
#include "src/model/llama_layout.hpp"

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

namespace tropilla::bench {

/// The options that differ between strategies, and where the weights are read from.
struct weights_setup {
  const llama_layout* layout = nullptr; ///< these three outlive the weights
  device* dev = nullptr;
  memory_source* memory = nullptr;
  tracer* trace = nullptr; ///< may be null
  std::vector<std::filesystem::path> files{};
  std::filesystem::path packed_folder{}; ///< has the packed weights already
  io_mode mode = io_mode::direct;
  bool streamed = false; ///< layers and the head come anew for every step
  bool ahead = false;    ///< the loader reads while others compute, and several groups at a time
  bool slots = false;    ///< streamed groups go through memory that is taken once, not per group
};

/// The weights of a run. Used by the thread that computes.
class weights {
public:
  virtual ~weights() = default;

  /// Waits for the group, which is in `groups()` from here on until `done`.
  virtual void need(std::size_t group) = 0;
  /// Whether `need` would not wait.
  [[nodiscard]] virtual bool there(std::size_t group) = 0;
  /// Notes that the group was computed.
  virtual void done(std::size_t group) = 0;
  /// Reads the rows of a step's tokens, float32, where the embedding is on disk.
  virtual void look_up(const std::vector<token_id>& ids, float* rows) = 0;
  [[nodiscard]] virtual std::span<const std::byte* const> groups() const = 0;
};

/// Opens, and reads what stays: at once and to the end, or in the background with `ahead`.
/// Throws `error`: io_error, or invalid_argument when there are no packed weights.
[[nodiscard]] std::unique_ptr<weights> open_weights(const weights_setup& setup);

} // namespace tropilla::bench
