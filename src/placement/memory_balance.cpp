// Prices divisions by predicted tokens per second, and moves when the gain is worth what loading costs.
#include "src/placement/memory_balance.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

// Margins below what two predictions for the same state differ by would move bytes back and forth. Weights that come
// back gain in every later step; pages gain only as long as sequences are there. With 1.1, 1.05 and half a second, 16
// streams of SmolLM2-135M in 125 MiB moved more than once a second between divisions that are equally fast, and gave
// 0.88 of the tokens per second of one that stayed. With 1.25 for pages, 16 streams of the 1B shape that grow in 620
// MiB waited for each other: 67 tokens per second and 7 sequences that gave up their pages, instead of 73 and 3
// with 1.12.
constexpr double gain_of_pages = 1.125, gain_of_weights = 1.15;

constexpr double min_rest = 1, max_rest = 3600; ///< seconds after a move
constexpr double rest_per_cost = 10;            ///< so that at most a tenth of the time goes into moves

constexpr std::size_t min_ordinary_tokens = 256, ordinary_share = 8; ///< of a context

std::string streaming(std::size_t bytes) {
  return bytes > 0 ? fmt::format("{} streamed per step", format_bytes(bytes)) : "all weights in memory";
}

std::string count_of(std::size_t n, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", n, n == 1 ? one : many);
}

std::string rate(double tokens_per_second) {
  return fmt::format("{:.{}f}", tokens_per_second, tokens_per_second < 10 ? 1 : 0);
}

std::size_t stride_of(const weight_placement& p, const balanced_device& d) {
  return std::max<std::size_t>(kv_page_stride(p.layout, d.input.shape.kv), 1);
}

division_figures figures_of(const memory_division& d) {
  division_figures f{d.kv_pages, d.streamed_bytes, 0, 0};
  for (const auto& p : d.placements) {
    f.total_bytes += p->plan.total;
    f.ring_slots += p->plan.ring_slots;
  }
  return f;
}

} // namespace

memory_balance::memory_balance(std::vector<balanced_device> devices, std::size_t extent_pages)
    : devices_(std::move(devices)), extent_pages_(std::max<std::size_t>(extent_pages, 1)),
      max_pages_(devices_.front().input.max_kv_pages()) {
  for (auto& d : devices_)
    if (d.budget == 0)
      d.budget = place(d.input, 0)->plan.total;
  const std::size_t context = devices_.front().input.shape.context;
  ordinary_pages_ = kv_pages_for(std::min(std::max(min_ordinary_tokens, context / ordinary_share), context));
  current_ = with_pages(ordinary_pages_);
}

std::size_t memory_balance::in_extents(std::size_t pages) const noexcept {
  pages = std::clamp<std::size_t>(pages, 1, max_pages_);
  return std::min(round_up(pages, extent_pages_), max_pages_);
}

memory_division memory_balance::divide(std::size_t pages) const {
  memory_division d{pages, {}, 0};
  for (const auto& device : devices_) {
    d.placements.push_back(place(device.input, device.budget, pages));
    d.streamed_bytes += d.placements.back()->streamed_bytes();
  }
  return d;
}

bool memory_division::fits() const {
  return std::ranges::all_of(placements, [](const auto& p) { return p->plan.total <= p->budget; });
}

std::size_t memory_balance::pages_with_spare(const memory_division& d) const {
  std::size_t pages = max_pages_;
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    const auto& p = *d.placements[i];
    pages = std::min(pages, d.kv_pages + p.spare_bytes / stride_of(p, devices_[i]));
  }
  return pages == max_pages_ ? pages : std::max(d.kv_pages, round_down(pages, extent_pages_));
}

bool memory_balance::has_budgets(const memory_division& d) const {
  for (std::size_t i = 0; i < devices_.size(); ++i)
    if (i >= d.placements.size() || d.placements[i]->budget != devices_[i].budget)
      return false;
  return true;
}

const memory_balance::kind& memory_balance::kind_with(std::size_t pages) {
  pages = in_extents(pages);
  const auto known = kinds_.lower_bound(pages);
  if (known != kinds_.end() && known->second.first_pages <= pages)
    return known->second;
  const auto d = divide(pages);
  kind k{pages, figures_of(d), d.fits()};
  if (k.fits) {
    // Pages in bytes that nothing uses change nothing else: what was too much for weights before still is.
    k.figures.kv_pages = pages_with_spare(d);
    for (std::size_t i = 0; i < devices_.size(); ++i)
      k.figures.total_bytes += (k.figures.kv_pages - pages) * stride_of(*d.placements[i], devices_[i]);
  }
  const auto [it, is_new] = kinds_.try_emplace(k.figures.kv_pages, k);
  if (!is_new)
    it->second.first_pages = std::min(it->second.first_pages, pages);
  return it->second;
}

memory_division memory_balance::with_pages(std::size_t pages) {
  pages = kind_with(pages).figures.kv_pages;
  for (const auto* made : {&current_, &last_})
    if (made->kv_pages == pages && has_budgets(*made))
      return *made;
  last_ = divide(pages);
  return last_;
}

std::vector<division_figures> memory_balance::kinds() {
  std::vector<division_figures> out;
  for (std::size_t pages = 1; pages <= max_pages_;) {
    const auto& k = kind_with(pages);
    if (!k.fits)
      break;
    if (!out.empty() && out.back().streamed_bytes == k.figures.streamed_bytes)
      out.pop_back(); // a smaller ring made room
    out.push_back(k.figures);
    pages = k.figures.kv_pages + 1;
  }
  return out;
}

std::size_t memory_balance::bytes_to_load(const memory_division& to) const {
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < to.placements.size(); ++i) {
    const auto &next = *to.placements[i], &before = *current_.placements[i];
    for (std::size_t g = 0; g < next.layout.groups.size(); ++g) {
      const bool was_there = g < before.layout.groups.size() && next.same_group(before, g) && !before.streams(g);
      bytes += next.streams(g) || was_there ? 0 : next.layout.groups[g].bytes;
    }
  }
  return bytes;
}

void memory_balance::moved(memory_division to, clock::time_point now) {
  const double cost = speed_.read_seconds(bytes_to_load(to)).value_or(0);
  const std::chrono::duration<double> rest(std::clamp(rest_per_cost * cost, min_rest, max_rest));
  rests_until_ = now + std::chrono::duration_cast<clock::duration>(rest);
  current_ = std::move(to);
  if (has_budgets(current_))
    return;
  for (std::size_t i = 0; i < devices_.size(); ++i)
    devices_[i].budget = current_.placements[i]->budget;
  kinds_.clear();
}

memory_balance::candidate memory_balance::rated(const division_figures& figures,
                                                std::span<const std::size_t> demand) const {
  candidate c{figures, 0, std::nullopt};
  while (c.sequences < demand.size() && std::min(demand[c.sequences], max_pages_) <= figures.kv_pages)
    ++c.sequences;
  // The first ones have come furthest and have most pages: when they end, those behind them run on fewer. On average as
  // many run as there are pages for at the mean of all.
  if (c.sequences > 0 && demand.back() > 0)
    c.sequences = std::max(c.sequences, std::min(demand.size(), figures.kv_pages * demand.size() / demand.back()));
  if (c.sequences > 0)
    c.tokens_per_second = speed_.tokens_per_second(c.sequences, figures.streamed_bytes);
  return c;
}

std::vector<memory_balance::candidate> memory_balance::candidates(std::span<const std::size_t> demand) {
  std::vector<candidate> out;
  for (const std::size_t pages : demand) {
    const auto& k = kind_with(pages);
    if (k.fits && (out.empty() || out.back().figures.kv_pages != k.figures.kv_pages))
      out.push_back(rated(k.figures, demand));
  }
  return out;
}

namespace {

/// The candidate with the highest rate; of equal ones the earliest, which streams least. None where no rate is known.
template <class Candidates, class Allowed>
auto best_of(const Candidates& all, Allowed allowed) {
  auto best = all.end();
  for (auto it = all.begin(); it != all.end(); ++it)
    if (it->tokens_per_second && allowed(*it) &&
        (best == all.end() || *it->tokens_per_second > *best->tokens_per_second))
      best = it;
  return best;
}

} // namespace

std::optional<memory_move> memory_balance::decide(std::span<const std::size_t> demand, std::size_t held,
                                                  clock::time_point now) {
  if (!demand.empty() && std::min(demand.front(), max_pages_) > current_.kv_pages)
    return move_for_first(demand);
  if (rests_until_ && now < *rests_until_)
    return std::nullopt;
  return demand.empty() ? move_when_idle(held) : move_for_more(demand, held);
}

std::optional<memory_move> memory_balance::move_for_first(std::span<const std::size_t> demand) {
  const auto all = candidates(demand);
  const auto enough = [&](const candidate& c) { return c.sequences > 0; };
  auto chosen = best_of(all, enough);
  if (chosen == all.end())
    chosen = std::ranges::find_if(all, enough);
  if (chosen == all.end())
    return std::nullopt;
  return memory_move{with_pages(chosen->figures.kv_pages),
                     fmt::format("1 sequence wants {}, more than the {} that there is room for: {} have room with {}, "
                                 "instead of {}",
                                 count_of(demand.front(), "page", "pages"), current_.kv_pages, chosen->figures.kv_pages,
                                 streaming(chosen->figures.streamed_bytes), streaming(current_.streamed_bytes))};
}

std::optional<memory_move> memory_balance::move_when_idle(std::size_t held) {
  const auto& k = kind_with(std::max(ordinary_pages_, held));
  if (!k.fits || k.figures.kv_pages >= current_.kv_pages)
    return std::nullopt;
  return memory_move{with_pages(k.figures.kv_pages),
                     fmt::format("no sequence wants pages: {} keep their room, with {} instead of {}",
                                 k.figures.kv_pages, streaming(k.figures.streamed_bytes),
                                 streaming(current_.streamed_bytes))};
}

std::optional<memory_move> memory_balance::move_for_more(std::span<const std::size_t> demand, std::size_t held) {
  const auto now = rated(figures_of(current_), demand);
  if (!now.tokens_per_second)
    return std::nullopt;
  const auto all = candidates(demand);
  const auto best = best_of(all, [&](const candidate& c) {
    if (c.figures.kv_pages > current_.kv_pages)
      return *c.tokens_per_second >= gain_of_pages * *now.tokens_per_second;
    return c.figures.kv_pages < current_.kv_pages && c.figures.kv_pages >= held &&
           *c.tokens_per_second >= gain_of_weights * *now.tokens_per_second;
  });
  if (best == all.end())
    return std::nullopt;
  return memory_move{with_pages(best->figures.kv_pages),
                     fmt::format("{} {}: {} tokens per second are predicted with {}, {} with {}",
                                 count_of(best->sequences, "sequence wants", "sequences want"),
                                 count_of(demand[best->sequences - 1], "page", "pages"), rate(*best->tokens_per_second),
                                 streaming(best->figures.streamed_bytes), rate(*now.tokens_per_second),
                                 streaming(current_.streamed_bytes))};
}

division_figures memory_balance::for_new_budget(std::span<const std::size_t> demand, std::size_t held) {
  auto all = candidates(demand);
  const auto roomy = [&](const candidate& c) { return c.figures.kv_pages >= held; };
  if (std::ranges::any_of(all, roomy))
    std::erase_if(all, [&](const candidate& c) { return !roomy(c); });
  else if (const auto& k = kind_with(std::max(ordinary_pages_, held)); k.fits)
    return k.figures;
  if (const auto best = best_of(all, [](const candidate&) { return true; }); best != all.end())
    return best->figures;
  // Nothing is known of speeds: no sequence that runs now has to wait, if that can be.
  const std::size_t running = rated(figures_of(current_), demand).sequences;
  const auto enough = std::ranges::find_if(all, [&](const candidate& c) { return c.sequences >= running; });
  if (enough != all.end())
    return enough->figures;
  return all.empty() ? kind_with(ordinary_pages_).figures : all.back().figures;
}

memory_move memory_balance::for_budget(std::size_t device, std::size_t bytes, std::span<const std::size_t> demand,
                                       std::size_t held) {
  memory_balance next(*this);
  next.devices_[device].budget = std::max<std::size_t>(bytes, 1); // 0 would be no budget
  next.kinds_.clear();
  const auto smallest = next.divide(next.in_extents(kv_pages_for(devices_[device].input.shape.context)));
  for (std::size_t i = 0; i < devices_.size(); ++i)
    require_fits(smallest.placements[i]->plan, i == device ? bytes : next.devices_[i].budget);
  const auto chosen = next.for_new_budget(demand, held);
  return {next.with_pages(chosen.kv_pages),
          fmt::format("the budget of {} is {}: {} have room with {}", smallest.placements[device]->plan.device,
                      format_bytes(bytes), count_of(chosen.kv_pages, "page", "pages"),
                      streaming(chosen.streamed_bytes))};
}

} // namespace tropilla
