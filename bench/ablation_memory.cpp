// Implements the two sources of bytes, with the same counts.
#include "bench/ablation_memory.hpp"

#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cstdlib>
#include <fmt/format.h>

namespace tropilla::bench {
namespace {

constexpr std::size_t alignment = 4096; // what O_DIRECT wants, and what the runtime leases by

class plain_memory final : public memory_source {
public:
  [[nodiscard]] block take(std::size_t bytes, purpose used_for) override {
    const std::size_t whole = round_up(std::max<std::size_t>(1, bytes), alignment);
    auto* const memory = static_cast<std::byte*>(std::aligned_alloc(alignment, whole));
    if (!memory)
      throw error(errc::over_budget,
                  fmt::format("the system has no {} for {}", format_bytes(whole), to_string(used_for)));
    counts_->add(whole, used_for);
    return {memory, [whole, used_for, counts = counts_](std::byte* p) {
              std::free(p);
              counts->remove(whole, used_for);
            }};
  }

  [[nodiscard]] peak_bytes peak() const override { return counts_->peak; }

private:
  struct counts {
    void add(std::size_t bytes, purpose used_for) {
      const auto p = static_cast<std::size_t>(used_for);
      peak.total = std::max(peak.total, total += bytes);
      peak.by_purpose[p] = std::max(peak.by_purpose[p], by_purpose[p] += bytes);
    }
    void remove(std::size_t bytes, purpose used_for) {
      total -= bytes;
      by_purpose[static_cast<std::size_t>(used_for)] -= bytes;
    }
    std::size_t total = 0;
    std::array<std::size_t, purpose_count> by_purpose{};
    peak_bytes peak;
  };

  std::shared_ptr<counts> counts_ = std::make_shared<counts>();
};

class arbiter_memory final : public memory_source {
public:
  arbiter_memory(device& dev, std::size_t bytes) : name_(dev.name()) {
    device_setup setup;
    setup.name = name_;
    setup.base = dev.reserve(bytes);
    setup.reservation_bytes = bytes;
    setup.budget = bytes;
    setup.alignment = alignment;
    setup.host_memory = true;
    arbiter_->add_device(setup);
  }

  [[nodiscard]] block take(std::size_t bytes, purpose used_for) override {
    auto answer = arbiter_->try_acquire({name_, std::max(bytes, alignment), used_for, priority::normal});
    if (const auto* refused = std::get_if<refusal>(&answer))
      throw error(errc::over_budget, refused->message);
    const auto held = std::make_shared<lease>(std::get<lease>(std::move(answer)));
    return {held, held->data()};
  }

  [[nodiscard]] peak_bytes peak() const override {
    const auto usage = arbiter_->usage(name_);
    return {usage.high_water, usage.high_water_by_purpose};
  }

private:
  std::string name_;
  std::shared_ptr<memory_arbiter> arbiter_ = memory_arbiter::make();
};

} // namespace

std::unique_ptr<memory_source> make_plain_memory() {
  return std::make_unique<plain_memory>();
}

std::unique_ptr<memory_source> make_arbiter_memory(device& dev, std::size_t reservation_bytes) {
  return std::make_unique<arbiter_memory>(dev, reservation_bytes);
}

} // namespace tropilla::bench
