/// Computes the forward pass of a Llama model with a device's `ops`.
///
/// Source: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023, section 2.2 (pre-norm,
/// SwiGLU, rotary embedding), with grouped-query attention (Ainslie et al., 2023).
#pragma once

#include "kernels/collective.hpp"
#include "kernels/ops.hpp"
#include "src/model/llama_layout.hpp"
#include "src/model/step.hpp"
#include "tropilla/types.hpp"

#include <array>
#include <cstddef>
#include <span>
#include <vector>

namespace tropilla {

/// Rows of a step that a device before this one computed.
struct hidden_input {
  const float* rows = nullptr; ///< [ids, width]; null: the step begins here, with the embedding
  const device* on = nullptr;  ///< whose memory that is; null: the processor's
};

/// The logits of a step: all of each row, or the top-k ones where these were enough and were copied from the device.
struct step_output {
  const float* logits = nullptr;      ///< [logit_rows, vocabulary]
  const token_logit* top_k = nullptr; ///< [logit_rows, k], by ascending token
  std::size_t k = 0;
};

/// Makes the copies of a step that was bound, of pages of `page_bytes`. Called by every worker of a compute job.
void copy_pages(ops& o, const step& s, std::span<std::byte* const> starts, std::size_t page_bytes);

/// The buffers and tables of one device, over leased memory that it does not own.
class llama_workspace {
public:
  /// `activations` has the plan's arena and `offsets` its offsets in the order of `buffer`; `workspace` has
  /// `workspace_bytes` bytes. Computes the rotary tables and, unless another workspace did, hands the device its
  /// scratch.
  llama_workspace(const llama_layout& layout, const run_shape& shape, device& dev, std::byte* activations,
                  std::span<const std::size_t> offsets, std::byte* workspace, bool gives_scratch = true);

  /// The same tables over other buffers, for steps of `rows` rows of which `logit_rows` want logits.
  [[nodiscard]] llama_workspace over(std::byte* activations, std::span<const std::size_t> offsets, std::size_t rows,
                                     std::size_t logit_rows) const;

  [[nodiscard]] float* floats(buffer b) const { return reinterpret_cast<float*>(at(b)); }
  [[nodiscard]] std::byte* at(buffer b) const { return buffers_[static_cast<std::size_t>(b)]; }
  [[nodiscard]] activation as_activation(buffer b, activation_kind kind, std::size_t rows, std::size_t width) const {
    return {at(b), kind, rows, width};
  }
  [[nodiscard]] const rope_table& rope() const noexcept { return rope_; }
  [[nodiscard]] const run_shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const activation_kinds_of_model& kinds() const noexcept { return kinds_; }

private:
  std::array<std::byte*, buffer_count> buffers_{};
  rope_table rope_;
  run_shape shape_;
  activation_kinds_of_model kinds_;
};

/// The k of the top-k logits that are copied of each row from a device without host-visible memory; 0: all are.
[[nodiscard]] std::size_t top_k_of(const llama_layout& layout, const step& s) noexcept;

/// Finds that many (not 0) of each row and leaves them where `top_k_buffer` says, after `forward_groups` computed the
/// logits.
void keep_top_k(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s);
[[nodiscard]] inline token_logit* top_k_buffer(const llama_workspace& space) {
  return reinterpret_cast<token_logit*>(space.at(buffer::head_rows)); // which the head has read by then
}

/// Weight groups that are in memory, by index; null where not.
using loaded_groups = std::span<const std::byte* const>;

/// Computes groups `[first, last)` of a step: group 0 embeds, groups 1 to n are layers, what follows gives logits
/// (`buffer::logits`, `[logit_rows, vocabulary]`). Called by every worker of a compute job; a pass calls it for all
/// groups in order, in one or more jobs. @pre the groups are loaded (and group 0 for a tied head); where the layout
/// leaves the embedding on disk, `buffer::hidden` already has the rows of `s.ids`.
/// `group`: of the devices that have the other shares, which compute the same step at the same time; null: the layout's
/// share is the whole. The rank 0 has all logits. No rank begins a step before all have ended the one before.
void forward_groups(ops& o, const llama_layout& layout, const llama_workspace& space, const step& s,
                    loaded_groups groups, std::size_t first, std::size_t last, communicator* group = nullptr);

} // namespace tropilla
