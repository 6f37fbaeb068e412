// Adds up what a run will hold, rounding as the pool does.
#include "memory/plan.hpp"

#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <numeric>

namespace tropilla {
namespace {

// Sizes come from files: a product that wraps would plan too little.
[[noreturn]] void too_large() {
  throw error(errc::over_budget, "the plan exceeds what a 64-bit address can reach; choose a smaller context");
}
std::size_t checked_sum(std::size_t a, std::size_t b) {
  std::size_t out = 0;
  if (__builtin_add_overflow(a, b, &out))
    too_large();
  return out;
}
std::size_t checked_product(std::size_t a, std::size_t b) {
  std::size_t out = 0;
  if (__builtin_mul_overflow(a, b, &out))
    too_large();
  return out;
}

/// Slots of a ring: one is used by compute while the other is being filled. A third would have each step read more than
/// it hides; where spare bytes allow one and times vary, `ring_depth` has the ring grow.
constexpr std::size_t ring_slots = 2;

struct residency {
  std::vector<bool> streamed;
  std::size_t slots = 0;
  std::size_t slot_bytes = 0;
  std::size_t bytes = 0; ///< of resident groups and the ring
};

std::size_t count_streamable(std::span<const weight_group> groups) {
  return static_cast<std::size_t>(
      std::count_if(groups.begin(), groups.end(), [](const weight_group& g) { return g.streamable; }));
}

/// Streams `count` of the streamable groups, spread evenly.
residency spread(std::span<const weight_group> groups, std::span<const std::size_t> bytes, std::size_t count) {
  const std::size_t streamable = count_streamable(groups);
  residency r{std::vector<bool>(groups.size()), count > 0 ? ring_slots : 0, 0, 0};
  for (std::size_t i = 0, place = 0; i < groups.size(); ++i) {
    if (groups[i].streamable) {
      r.streamed[i] = (place + 1) * count / streamable != place * count / streamable;
      ++place;
    }
    if (r.streamed[i])
      r.slot_bytes = std::max(r.slot_bytes, bytes[i]);
    else
      r.bytes = checked_sum(r.bytes, bytes[i]);
  }
  r.bytes = checked_sum(r.bytes, checked_product(r.slots, r.slot_bytes));
  return r;
}

/// Chooses the groups that stay. `room`: bytes for weights.
residency choose_residency(std::span<const weight_group> groups, std::span<const std::size_t> bytes, std::size_t room,
                           bool bounded) {
  auto smallest = spread(groups, bytes, 0); // everything stays
  if (!bounded || smallest.bytes <= room)
    return smallest;
  const std::size_t streamable = count_streamable(groups);
  for (std::size_t count = ring_slots + 1; count <= streamable; ++count) {
    auto r = spread(groups, bytes, count);
    if (r.bytes <= room)
      return r;
    if (r.bytes < smallest.bytes)
      smallest = std::move(r);
  }
  return smallest;
}

/// Adds items to plans of one input.
class plan_sums {
public:
  explicit plan_sums(const plan_input& input) : input_(input) {}

  [[nodiscard]] std::size_t rounded(std::size_t bytes) const {
    return round_up(checked_sum(bytes, input_.alignment) - input_.alignment, input_.alignment);
  }
  void add(memory_plan& plan, purpose used_for, std::string name, std::size_t bytes) const {
    if (bytes == 0)
      return;
    plan.items.push_back({used_for, std::move(name), rounded(bytes)});
    plan.by_purpose[static_cast<std::size_t>(used_for)] += rounded(bytes);
    plan.total = checked_sum(plan.total, rounded(bytes));
  }
  void add_ring(memory_plan& plan, std::size_t slots, std::size_t slot_bytes) const {
    for (std::size_t i = 0; i < slots; ++i)
      add(plan, purpose::ring, fmt::format("slot {}", i), slot_bytes);
    plan.ring_slots = slots;
    plan.slot_bytes = slot_bytes;
  }
  [[nodiscard]] memory_plan without_weights() const {
    memory_plan plan;
    plan.device = input_.device;
    if (input_.kv_page_tokens > 0 && input_.kv_tokens > 0) {
      plan.kv_pages = divide_up(input_.kv_tokens, input_.kv_page_tokens);
      add(plan, purpose::kv, fmt::format("{} pages of {} tokens", plan.kv_pages, input_.kv_page_tokens),
          checked_product(plan.kv_pages, round_up(input_.kv_page_bytes, input_.alignment)));
    }
    plan.activations = assign_offsets(input_.activations, input_.alignment);
    add(plan, purpose::activations, fmt::format("{} buffers", input_.activations.size()), plan.activations.bytes);
    add(plan, purpose::workspace, "tables and scratch", input_.workspace_bytes);
    add(plan, purpose::staging, "loader", input_.staging_bytes);
    add(plan, purpose::requests, "prompts, replies, page tables", input_.request_bytes);
    return plan;
  }

private:
  const plan_input& input_;
};

} // namespace

offset_plan assign_offsets(std::span<const buffer_lifetime> buffers, std::size_t alignment) {
  std::vector<std::size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return buffers[a].bytes > buffers[b].bytes; });

  offset_plan plan;
  plan.offsets.resize(buffers.size());
  struct interval {
    std::size_t begin, end;
  };
  std::vector<std::size_t> placed;
  for (const auto i : order) {
    const auto& b = buffers[i];
    const std::size_t bytes = round_up(b.bytes, alignment);
    std::vector<interval> taken; // by buffers that live at the same time
    for (const auto p : placed)
      if (buffers[p].first <= b.last && b.first <= buffers[p].last)
        taken.push_back({plan.offsets[p], plan.offsets[p] + round_up(buffers[p].bytes, alignment)});
    std::sort(taken.begin(), taken.end(), [](const interval& x, const interval& y) { return x.begin < y.begin; });
    // The smallest gap that holds it, else behind all of them.
    std::size_t best = 0, best_gap = 0, end = 0;
    bool found = false;
    for (const auto& t : taken) {
      if (t.begin > end && t.begin - end >= bytes && (!found || t.begin - end < best_gap)) {
        best = end;
        best_gap = t.begin - end;
        found = true;
      }
      end = std::max(end, t.end);
    }
    plan.offsets[i] = found ? best : end;
    plan.bytes = std::max(plan.bytes, plan.offsets[i] + bytes);
    placed.push_back(i);
  }
  return plan;
}

memory_plan make_plan(const plan_input& input) {
  const plan_sums sums(input);
  memory_plan plan = sums.without_weights();
  std::vector<std::size_t> bytes;
  for (const auto& g : input.groups)
    bytes.push_back(sums.rounded(g.bytes));
  const std::size_t room = input.budget > plan.total ? input.budget - plan.total : 0;
  auto weights = choose_residency(input.groups, bytes, room, input.budget > 0);
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (!weights.streamed[i])
      sums.add(plan, purpose::weights, input.groups[i].name, input.groups[i].bytes);
  plan.streamed = std::move(weights.streamed);
  sums.add_ring(plan, weights.slots, weights.slot_bytes);
  return plan;
}

memory_plan make_replica_plan(const plan_input& input, const memory_plan& original) {
  const plan_sums sums(input);
  memory_plan plan = sums.without_weights();
  plan.streamed = original.streamed;
  sums.add_ring(plan, original.ring_slots, original.slot_bytes);
  return plan;
}

void require_fits(const memory_plan& plan, std::size_t budget, std::string_view set_by) {
  if (plan.total <= budget)
    return;
  std::string by_purpose;
  for (std::size_t p = 0; p < purpose_count; ++p)
    if (plan.by_purpose[p] > 0)
      by_purpose += fmt::format("{}{} {}", by_purpose.empty() ? "" : ", ", to_string(static_cast<purpose>(p)),
                                format_bytes(plan.by_purpose[p]));
  if (!set_by.empty())
    throw error(errc::over_budget,
                fmt::format("{} may use {}, set by {}, and {} are needed ({}): {} more; a smaller context or fewer "
                            "tokens with KV pages need less",
                            plan.device, format_bytes(budget), set_by, format_bytes(plan.total), by_purpose,
                            format_bytes(plan.total - budget)));
  throw error(errc::over_budget,
              fmt::format("the budget of {} is {}, and {} are needed ({}): {} more; the smallest budget that works is "
                          "{}, less with a smaller context",
                          plan.device, format_bytes(budget), format_bytes(plan.total), by_purpose,
                          format_bytes(plan.total - budget), format_bytes_up(plan.total)));
}

} // namespace tropilla
