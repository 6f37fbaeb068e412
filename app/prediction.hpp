/// Predicts tokens per second from the bytes and operations of a step and from the machine's speed.
///
/// Reading, memory and arithmetic work beside each other, so a pass takes as long as the slowest of the three needs
/// (a roofline: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", 2009).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla::app {

/// The bytes and operations of a step.
struct step_cost {
  std::size_t streamed_bytes = 0;    ///< read from the file by every pass
  std::size_t weight_bytes = 0;      ///< read from memory by every pass
  std::size_t layer_parameters = 0;  ///< multiplied for every token
  std::size_t decode_parameters = 0; ///< multiplied for a token whose logits are wanted: the head's, too
  std::size_t max_batch_tokens = 1;  ///< tokens of a pass over a long prompt
};

/// Speeds per second; 0: not measured.
struct machine_speed {
  double read_bytes = 0;
  double memory_bytes = 0; ///< of weights that come from memory and meet one token
  double operations = 0;   ///< of the model's layers, with many tokens: a multiplication and an addition are two
};

/// The resource that limits a pass.
enum class limit : std::uint8_t { disk, memory, compute };

/// "disk", "memory", "compute".
[[nodiscard]] std::string_view to_string(limit l) noexcept;

struct pass_prediction {
  double tokens_per_second = 0;
  limit binds{};
};

/// Predicted passes; empty where a speed is missing that the pass depends on.
struct prediction {
  std::optional<pass_prediction> decode;  ///< one token per pass
  std::optional<pass_prediction> prefill; ///< `max_batch_tokens` per pass
};

[[nodiscard]] prediction predict(const step_cost& cost, const machine_speed& speed);
/// A pass with one token of each of `sequences` sequences, which read the weights once together. @pre sequences > 0
[[nodiscard]] std::optional<pass_prediction> predict_decode(const step_cost& cost, const machine_speed& speed,
                                                            std::size_t sequences);

/// "63 tok/s".
[[nodiscard]] std::string describe_rate(double tokens_per_second);

/// The lines that `tropilla plan` prints; each ends with a line end.
[[nodiscard]] std::string describe(const prediction& p, const step_cost& cost, const machine_speed& speed);

} // namespace tropilla::app
