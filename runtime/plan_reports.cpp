// Describes plans to people.
#include "runtime/plan_reports.hpp"

#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {

plan_report describe(const weight_placement& placement, const run_shape& shape, std::size_t budget) {
  plan_report out;
  const auto& plan = placement.plan;
  for (const auto& item : plan.items)
    out.lines.push_back({plan.device, std::string(to_string(item.used_for)), item.name, item.bytes});
  out.total_bytes = plan.total;
  out.budget_bytes = budget ? budget : plan.total;
  auto& device = out.devices.emplace_back();
  device.name = plan.device;
  device.total_bytes = plan.total;
  device.budget_bytes = out.budget_bytes;
  out.context = shape.context;
  out.sequences = shape.sequences;
  out.kv_pages = plan.kv_pages;
  out.kv_tokens = plan.kv_pages * kv_page_tokens;
  out.max_kv_pages = kv_pages_for(std::max(shape.context, shape.kv_tokens));
  out.max_kv_tokens = out.max_kv_pages * kv_page_tokens;
  out.extent_tokens = extent_pages_of(out.max_kv_pages, kv_page_stride(placement.layout, shape.kv)) * kv_page_tokens;
  out.kv_page_tokens = kv_page_tokens;
  out.kv_type = to_string(shape.kv);
  out.max_batch_tokens = shape.max_batch_tokens;
  out.request_bytes = shape.request_bytes;
  out.ring_slots = plan.ring_slots;
  out.slot_bytes = plan.slot_bytes;
  out.weight_bytes = placement.layout.decode_bytes();
  for (std::size_t g = placement.layout.begin_group(); g < placement.layout.end_group(); ++g) {
    out.residency += plan.streamed[g] ? 'S' : g == 0 && placement.layout.embedding_on_disk() ? 'G' : 'R';
    out.streamed_bytes += plan.streamed[g] ? placement.layout.groups[g].bytes : 0;
  }
  return out;
}

std::vector<division_report> describe(const std::vector<division_figures>& kinds) {
  constexpr std::size_t max_divisions = 16;
  const std::size_t count = std::min(kinds.size(), max_divisions);
  std::vector<division_report> out;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& k = kinds[count > 1 ? i * (kinds.size() - 1) / (count - 1) : 0];
    out.push_back({k.kv_pages * kv_page_tokens, k.streamed_bytes, k.total_bytes, k.ring_slots});
  }
  return out;
}

plan_report add_up(const std::vector<plan_report>& shards) {
  plan_report out = shards.front();
  for (std::size_t i = 1; i < shards.size(); ++i) {
    const auto& p = shards[i];
    out.lines.insert(out.lines.end(), p.lines.begin(), p.lines.end());
    out.total_bytes += p.total_bytes;
    out.budget_bytes += p.budget_bytes;
    out.weight_bytes += p.weight_bytes;
    out.residency += " " + p.residency;
    out.streamed_bytes += p.streamed_bytes;
    out.extent_tokens = std::min(out.extent_tokens, p.extent_tokens); // as the largest pages want it
    out.ring_slots += p.ring_slots;
    out.slot_bytes = std::max(out.slot_bytes, p.slot_bytes);
    out.devices.insert(out.devices.end(), p.devices.begin(), p.devices.end());
  }
  return out;
}

std::string above_limit(std::size_t budget, const memory_limit& limit) {
  return fmt::format("the budget of {} is more than the {} that may be used, set by {}: what finds no memory when it "
                     "is first written fails then",
                     format_bytes(budget), format_bytes(limit.bytes), limit.set_by);
}

std::vector<std::string> notices_of_limits(const std::vector<placed_shard>& shards) {
  std::vector<std::string> out;
  std::size_t given = 0;
  for (const auto& p : shards) {
    const auto& limit = p.input.limit;
    const auto& plan = p.placement->plan;
    if (p.dev->host_memory() && p.has_budget)
      given += p.placement->budget;
    if (p.has_budget || p.everything <= limit.bytes || !p.fits())
      continue;
    std::string change = fmt::format("{} tokens have KV pages", plan.kv_pages * kv_page_tokens);
    if (const auto streamed = p.placement->streamed_bytes(); streamed > 0)
      change = format_bytes(streamed) + " of weights are streamed for every step";
    else if (p.full_plan.ring_slots > 0)
      change += fmt::format(" beside all weights, and up to {} while weights are streamed",
                            p.full_plan.kv_pages * kv_page_tokens);
    out.push_back(fmt::format("{} may use {}, set by {}, and everything would take {}: {}", plan.device,
                              format_bytes(limit.bytes), limit.set_by, format_bytes(p.everything), change));
  }
  const auto host = std::ranges::find_if(shards, [](const auto& p) { return p.dev->host_memory(); });
  if (host != shards.end() && given > host->input.limit.bytes)
    out.push_back(above_limit(given, host->input.limit));
  return out;
}

} // namespace tropilla
