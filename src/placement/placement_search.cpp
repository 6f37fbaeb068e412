// Tries shapes from the largest to the smallest until all of their pages fit.
#include "src/placement/placement_search.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <numeric>
#include <span>

namespace tropilla {

std::pair<std::size_t, std::string> placed_shard::bound() const {
  const auto& limit = input.limit;
  if (has_budget && placement->budget <= limit.machine)
    return {placement->budget, ""};
  return {std::min(placement->budget, limit.machine), has_budget ? "all memory that the machine has" : limit.set_by};
}

placement_search::placement_search(std::vector<placed_shard>& shards, const shape_choice& choice)
    : shards_(shards), choice_(choice), shape_(choice_.first) {}

run_shape placement_search::find() {
  give_up_pages();
  if (choice_.smaller_steps && shape_.max_batch_tokens > choice_.smaller_steps->max_batch_tokens && !fits()) {
    shape_ = *choice_.smaller_steps;
    give_up_pages();
  }
  if (!choice_.kv_tokens_fixed && fits() && !streams())
    use_spare_bytes();
  if (!fits())
    return shape_;
  std::vector<balanced_device> devices;
  for (const auto& s : shards_)
    devices.push_back({s.input, s.budget});
  balance_ = std::make_shared<memory_balance>(std::move(devices), extent_pages_of(shards_));
  for (std::size_t i = 0; i < shards_.size(); ++i)
    shards_[i].placement = balance_->current().placements[i];
  return shape_;
}

void placement_search::place_with(std::size_t kv_tokens) {
  shape_.kv_tokens = kv_tokens;
  for (auto& s : shards_) {
    s.input.shape = shape_;
    s.placement = place(s.input, s.budget);
    s.everything = std::max(s.everything, s.placement->plan.total);
    if (s.budget == 0 && s.placement->plan.total > s.input.limit.bytes) {
      s.budget = std::max<std::size_t>(s.input.limit.bytes, 1);
      s.placement = place(s.input, s.budget);
    }
    s.full_plan = s.placement->plan;
  }
}

void placement_search::give_up_pages() {
  place_with(shape_.kv_tokens);
  while (!choice_.kv_tokens_fixed && shape_.kv_tokens > shape_.context && !fits()) {
    shape_.max_batch_tokens = std::min(shape_.max_batch_tokens, shape_.kv_tokens - shape_.context);
    place_with(shape_.kv_tokens - shape_.context);
  }
}

/// @pre everything fits
void placement_search::use_spare_bytes() {
  std::size_t pages = choice_.first.kv_tokens / kv_page_tokens;
  for (const auto& s : shards_) {
    const std::size_t page_bytes = kv_page_stride(s.placement->layout, shape_.kv) + kv_pages::bytes_per_page;
    pages = std::min(pages, s.full_plan.kv_pages + (s.bound().first - s.full_plan.total) / page_bytes);
  }
  if (pages > shape_.kv_tokens / kv_page_tokens)
    place_with(pages * kv_page_tokens);
}

bool placement_search::streams() const {
  return std::ranges::any_of(shards_, [](const placed_shard& s) { return s.streams(); });
}

bool placement_search::fits() const {
  return std::ranges::all_of(shards_, [](const placed_shard& s) { return s.fits(); });
}

std::size_t extent_pages_of(const std::vector<placed_shard>& shards) {
  std::size_t stride = 0;
  for (const auto& s : shards)
    stride = std::max(stride, kv_page_stride(s.placement->layout, s.input.shape.kv));
  return extent_pages_of(shards.front().input.max_kv_pages(), stride);
}

void divide_model(std::vector<placed_shard>& shards, const device_split& split, const llama_config& model,
                  std::size_t kv_tokens) {
  if (split.pipeline > model.layers)
    throw error(errc::invalid_argument, fmt::format("{} devices can't share {} layers", split.pipeline, model.layers));
  const bool alike = std::ranges::any_of(shards, [](const placed_shard& s) { return s.budget == 0; });
  std::vector<double> weights;
  for (const auto& s : shards) {
    const std::size_t requests = s.input.request_bytes(kv_tokens);
    weights.push_back(alike ? 1 : static_cast<double>(s.budget > requests ? s.budget - requests : s.budget));
  }
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  double so_far = 0;
  std::size_t first = 0;
  for (std::size_t stage = 0; stage < split.pipeline; ++stage) {
    const auto of_stage = std::span(weights).subspan(stage * split.tensor, split.tensor);
    so_far += std::accumulate(of_stage.begin(), of_stage.end(), 0.0);
    const std::size_t after = split.pipeline - 1 - stage;
    const auto wanted = static_cast<std::size_t>(static_cast<double>(model.layers) * so_far / std::max(all, 1.0) + 0.5);
    const std::size_t last = after == 0 ? model.layers : std::clamp(wanted, first + 1, model.layers - after);
    for (std::size_t rank = 0; rank < split.tensor; ++rank) {
      auto& input = shards[stage * split.tensor + rank].input;
      input.layers = {first, last};
      if (split.tensor > 1)
        input.share = tensor_share::divide(model, of_stage, rank);
    }
    first = last;
  }
}

void divide_pinned(std::vector<placed_shard>& shards, std::size_t bytes) {
  const auto apart = [](const placed_shard& s) { return !s.dev->host_memory(); };
  const auto count = static_cast<std::size_t>(std::ranges::count_if(shards, apart));
  if (bytes > 0 && count == 0)
    throw error(errc::invalid_argument, "pinned memory keeps weights that a GPU streams, and no GPU is asked for; "
                                        "name one in the budget: cuda:0=4GiB");
  for (auto& s : shards)
    if (apart(s))
      s.input.pinned_bytes = bytes / count;
}

} // namespace tropilla
