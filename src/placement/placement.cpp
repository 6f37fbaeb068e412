// Tries the forms of a layout against a budget, and finds packed weights that can be mapped.
#include "src/placement/placement.hpp"

#include "src/io/packed_weights.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

constexpr std::string_view mapped_io = "mmap"; ///< of `runtime_config::io`

/// The mode that was asked for, or the one that suits: what is read for every pass would push out of the page cache
/// what others want; what is read once may stay there.
io_mode mode_for(const std::string& io, bool again_and_again) {
  if (io.empty())
    return again_and_again ? io_mode::direct : io_mode::buffered;
  if (io == mapped_io)
    return io_mode::buffered; // what is not used where it is mapped
  for (const auto mode : {io_mode::direct, io_mode::buffered})
    if (io == to_string(mode))
      return mode;
  throw error(errc::invalid_argument, fmt::format("weights are read by mmap, direct or buffered, not \"{}\"", io));
}

std::shared_ptr<weight_placement> try_form(const placement_input& input, weight_form form, std::size_t budget,
                                           std::size_t kv_pages) {
  auto placement = std::make_shared<weight_placement>();
  placement->layout = llama_layout::make(input.model, form, 0, input.layers, input.share);
  // The processor packs for a GPU, too.
  placement->loading =
      loader_shape::for_model(placement->layout, input.dev->host_memory() ? input.dev->workers() : usable_cores());
  placement->loading.model_mode = mode_for(input.io, false);
  auto plan =
      make_plan_input(placement->layout, input.shape, *input.dev, placement->loading.staging_bytes_on(*input.dev));
  plan.request_bytes = input.request_bytes(plan.kv_tokens); // the tables of all pages that may exist
  plan.kv_tokens = kv_pages * kv_page_tokens;
  plan.budget = budget;
  placement->plan = make_plan(plan);
  placement->budget = budget > 0 ? budget : placement->plan.total;
  placement->spare_bytes = placement->budget > placement->plan.total ? placement->budget - placement->plan.total : 0;
  placement->loading.packed_mode = mode_for(input.io, placement->plan.ring_slots > 0);
  return placement;
}

/// Groups that all stay are looked at where the cache has them: processes share one copy, and nothing is read twice.
void map_packed(weight_placement& placement, const placement_input& input) {
  const auto found = find_packed_weights(input.packed_folder, placement.layout, input.files);
  if (!found)
    return;
  placement.mapping = found->map();
  if (!placement.mapping)
    return;
  for (const auto& g : placement.layout.groups)
    placement.mapped.push_back(placement.mapping->data() + found->offset(g.section) + g.section_offset);
}

/// Which of two placements for a budget costs less.
bool is_better(const weight_placement& a, const weight_placement& b, std::size_t budget) {
  if (a.plan.total > budget || b.plan.total > budget)
    return a.plan.total < b.plan.total;
  return a.streamed_bytes() < b.streamed_bytes();
}

} // namespace

std::size_t weight_placement::streamed_bytes() const {
  std::size_t bytes = 0;
  for (std::size_t g = 0; g < layout.groups.size(); ++g)
    bytes += streams(g) ? layout.groups[g].bytes : 0;
  return bytes;
}

std::size_t placement_input::request_bytes(std::size_t kv_tokens) const {
  return holds_requests ? shape.request_bytes + kv_pages_for(kv_tokens) * kv_pages::bytes_per_page : 0;
}

std::size_t placement_input::max_kv_pages() const {
  return kv_pages_for(std::max(shape.context, shape.kv_tokens));
}

std::shared_ptr<const weight_placement> place(const placement_input& input, std::size_t budget) {
  return place(input, budget, input.max_kv_pages());
}

std::shared_ptr<const weight_placement> place(const placement_input& input, std::size_t budget, std::size_t kv_pages) {
  kv_pages = std::clamp<std::size_t>(kv_pages, 1, input.max_kv_pages());
  auto placement = try_form(input, weight_form::whole, budget, kv_pages);
  // Few groups may be too much for a budget and nothing that a ring could help with: the embedding and a layer.
  if (placement->plan.ring_slots > 0 || placement->plan.total > placement->budget) {
    auto tiled = try_form(input, weight_form::tiled, budget, kv_pages);
    if (is_better(*tiled, *placement, budget))
      placement = std::move(tiled);
  }
  if (placement->plan.ring_slots > 0)
    return placement;
  if (!input.packed_folder.empty() && input.io == mapped_io && input.dev->host_memory())
    map_packed(*placement, input);
  return placement;
}

std::size_t extent_pages_of(std::size_t max_kv_pages, std::size_t page_stride) {
  constexpr std::size_t wanted_bytes = std::size_t{2} << 20, min_extents = 16;
  return std::clamp<std::size_t>(wanted_bytes / std::max<std::size_t>(page_stride, 1), 1,
                                 std::max<std::size_t>(max_kv_pages / min_extents, 1));
}

} // namespace tropilla
