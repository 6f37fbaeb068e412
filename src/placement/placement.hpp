/// The placement of a model's weights: what a budget decides, and what the actors that move weights share.
#pragma once

#include "memory/memory_limit.hpp"
#include "memory/plan.hpp"
#include "src/io/packed_mapping.hpp"
#include "src/io/weight_loader.hpp"
#include "src/model/llama_layout.hpp"
#include "src/schedule/kv_pages.hpp"

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// Immutable. A new budget produces a new placement.
struct weight_placement {
  llama_layout layout;
  memory_plan plan;
  loader_shape loading;
  std::size_t budget = 0;      ///< that it was made for, or the plan's total
  std::size_t spare_bytes = 0; ///< of the budget, beyond the plan: the ring may grow by them, until pages want them
  /// The packed weights, when all groups stay and are looked at where they lie; else null.
  std::shared_ptr<packed_mapping> mapping;
  std::vector<std::byte*> mapped; ///< by group; empty without a mapping

  /// Nothing is streamed, looked up on disk or cut: what `place` makes without a budget.
  [[nodiscard]] bool is_whole() const {
    return plan.ring_slots == 0 && layout.tile_rows == 0 && !layout.embedding_on_disk();
  }
  [[nodiscard]] bool streams(std::size_t group) const { return plan.streamed[group]; }
  [[nodiscard]] std::size_t streamed_bytes() const; ///< by every step
  /// True for a group that need not be loaded: it has no bytes, or its lease is one of `kept`, which are by group.
  [[nodiscard]] bool is_present(std::size_t group, const std::vector<lease>& kept) const {
    return layout.groups[group].bytes == 0 || (group < kept.size() && kept[group]);
  }
  /// Bytes of a group's block: what a direct read fills.
  [[nodiscard]] std::size_t block_bytes(std::size_t group) const {
    return to_group_alignment(layout.groups[group].bytes);
  }
  /// Whether a group has the same contents in both placements. Groups up to the norm have, whatever the form, except
  /// that the embedding is empty where its rows are looked up on disk; groups of the head have if the tiles are equal.
  [[nodiscard]] bool same_group(const weight_placement& other, std::size_t group) const {
    if (group > layout.norm_group() && layout.tile_rows != other.layout.tile_rows)
      return false;
    return layout.groups[group].bytes == other.layout.groups[group].bytes;
  }
};

/// What placements are made from.
struct placement_input {
  llama_config model;
  run_shape shape;    ///< `kv_tokens`: those that may have pages at once
  layer_range layers; ///< of this device
  const device* dev = nullptr;
  std::vector<std::filesystem::path> files;
  std::filesystem::path packed_folder;
  std::string io;                      ///< as `runtime_config::io`
  std::size_t pinned_bytes = 0;        ///< this device's share of `runtime_config::pinned_bytes`
  memory_limit limit{};                ///< of all devices of this kind together; addresses: of this one
  bool holds_requests = false;         ///< its budget is the processor's memory, and counts what requests hold, too
  std::optional<tensor_share> share{}; ///< of each matrix; empty: the whole

  /// Bytes for requests and for the tables of this many tokens' KV pages.
  [[nodiscard]] std::size_t request_bytes(std::size_t kv_tokens) const;
  /// KV pages that may exist at once.
  [[nodiscard]] std::size_t max_kv_pages() const;
};

/// Everything stays if the budget (0: none) holds it. Else what does not fit is streamed, in the form of the layout in
/// which that is less. When nothing fits it is the smallest placement, which exceeds the budget. Its plan has room for
/// `kv_pages` pages (at least 1, at most what the shape may have); activations, workspace and requests' tables are
/// those of the shape. Throws as `make_plan`, and `error` (invalid_argument) for an unknown way to read.
[[nodiscard]] std::shared_ptr<const weight_placement> place(const placement_input& input, std::size_t budget,
                                                            std::size_t kv_pages);
/// As above, with room for all pages that the shape may have.
[[nodiscard]] std::shared_ptr<const weight_placement> place(const placement_input& input, std::size_t budget);

/// Pages of an extent: about 2 MiB of them, because the system is asked for host memory in so many bytes at a time, but
/// no more than a sixteenth of the pages that may exist, so that pages come and go in steps that are small beside them.
/// `page_stride`: of the device with the largest pages, for all devices have the same page numbers.
[[nodiscard]] std::size_t extent_pages_of(std::size_t max_kv_pages, std::size_t page_stride);

} // namespace tropilla
