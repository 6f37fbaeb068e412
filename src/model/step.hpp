/// Describes a step as plain data: what scheduling composes and what devices compute. Knows no device.
#pragma once

#include "kernels/kv_cache.hpp"
#include "memory/lease.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace tropilla {

/// The numbers that size a run's buffers.
struct run_shape {
  std::size_t context = 0;          ///< tokens of a sequence, at most
  std::size_t max_batch_tokens = 0; ///< of all sequences of a step together
  std::size_t logit_rows = 0;       ///< of a step that want logits, at most
  std::size_t sequences = 1;        ///< in a step, at most
  std::size_t kv_tokens = 0;        ///< that may have KV pages at once, of all sequences; at least `context`
  kv_type kv = kv_type::f16;        ///< how keys and values are stored
  std::size_t request_bytes = 0;    ///< of the processor's memory, for what requests hold
};

/// Where the KV pages lie, at one moment. Immutable. Its holders keep the memory.
struct kv_page_table {
  std::vector<std::vector<lease>> extents;     ///< by extent, by device; none without memory
  std::vector<std::vector<std::byte*>> starts; ///< by device, by page; null without memory
};

/// One pass over the layers: some tokens of some sequences. A token is a row of the kernels' matrices.
struct step {
  std::vector<token_id> ids;            ///< of its tokens
  std::vector<sequence_rows> sequences; ///< cover the tokens in order; their pages stay valid during the step
  std::vector<std::size_t> logit_rows;  ///< indices of tokens whose logits are wanted, ascending
  std::vector<page_number> pages{};     ///< of one sequence after another: those of its positions up to the last token
  std::vector<page_copy> copies{};      ///< to make first, in this order
  std::size_t top_k = 0;                ///< the k of the top-k logits that are enough of each row; 0: all are needed
  std::shared_ptr<const kv_page_table>
      table{};                           ///< of the moment at which it was composed; null in tests without memory
  std::vector<std::byte*> page_starts{}; ///< filled by `bind_pages`: what the sequences' pages point into

  /// Empties the step; the memory of its lists stays.
  void clear() noexcept {
    ids.clear();
    sequences.clear();
    logit_rows.clear();
    pages.clear();
    copies.clear();
    top_k = 0;
    table.reset();
    page_starts.clear();
  }
};

/// Returns an empty step: `last`, when no other holder is left, so that steps of the same size allocate nothing.
[[nodiscard]] std::shared_ptr<step> blank_step(std::shared_ptr<step>& last);

/// Drops the table of a step that has ended: memory may go back. Where there are other holders, which may read it, it
/// drops the step instead.
void drop_table(std::shared_ptr<step>& ended);

/// Returns a table for changes: `table` itself, when no other holder is left, else a copy that takes its place.
[[nodiscard]] kv_page_table& to_change(std::shared_ptr<kv_page_table>& table);

/// Points a step's sequences at the pages of the device where these begin at `starts`, by number.
void bind_pages(step& s, std::span<std::byte* const> starts);

} // namespace tropilla
