/// A weight_ring on a clock that is moved by hand, over memory and loads that a test grants, refuses, ends and fails.
#pragma once

#include "memory/arbiter.hpp"
#include "src/schedule/weight_ring.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tropilla::testing {

/// Does what the ring says, keeps what it asked for until the test lets that happen, and checks after every event that
/// no slot is lost, overwritten or freed while it is loaded or held, that no two slots have the same group, and that
/// every waiter is answered once, with its group.
class driven_ring {
public:
  explicit driven_ring(weight_ring_setup setup) : kinds(setup.groups), ring_(std::move(setup)) {
    arbiter_->add_device("host:0", nullptr, budget, budget, 1);
    perform(ring_.start());
  }

  void need(std::size_t g) {
    waiting.emplace(++last_waiter_, g);
    perform(ring_.needed(g, last_waiter_, now));
  }
  void release(std::size_t g) {
    for (auto& [address, s] : slots_)
      if (s.state == content::held && s.group == g)
        s.state = content::none;
    perform(ring_.released(g, now));
  }
  void begin(bool with_output) { perform(ring_.step_announced(with_output, now)); }
  void abandon() {
    for (auto& [address, s] : slots_)
      if (s.state != content::loading)
        s.state = content::none;
    perform(ring_.step_abandoned(now));
  }
  void shrink() {
    for (auto& [address, s] : slots_)
      s.may_be_empty = s.state == content::ready;
    perform(ring_.shrink());
  }

  void lease_group(std::size_t g) {
    take(leases, g);
    const auto bytes = std::make_shared<std::byte>();
    resident_[g] = bytes.get();
    perform(ring_.group_leased(g, lease_of(bytes)));
  }
  void refuse_group(std::size_t g) {
    take(leases, g);
    perform(ring_.group_refused(g, error(errc::over_budget, "no block for group " + std::to_string(g))));
  }
  void lease_slot() {
    REQUIRE(slot_leases > 0);
    --slot_leases;
    const auto bytes = std::make_shared<std::byte>();
    slots_[bytes.get()] = {bytes, content::none, 0, false};
    perform(ring_.slot_leased(lease_of(bytes), now));
  }
  void lease_slots() {
    while (slot_leases > 0)
      lease_slot();
  }
  void refuse_slot() {
    REQUIRE(slot_leases > 0);
    --slot_leases;
    perform(ring_.slot_refused(error(errc::over_budget, "no slot")));
  }
  void load(std::size_t g) {
    take(loads, g);
    if (auto* const s = slot_with(g, content::loading))
      s->state = content::ready;
    perform(ring_.loaded(g, now));
  }
  void fail_load(std::size_t g) {
    take(loads, g);
    if (auto* const s = slot_with(g, content::loading))
      s->state = content::none;
    perform(ring_.load_failed(g, error(errc::io_error, "group " + std::to_string(g) + " can't be read"), now));
  }

  [[nodiscard]] bool streams(std::size_t g) const { return kinds[g] == group_kind::streamed; }
  [[nodiscard]] bool holds(std::size_t g) { return slot_with(g, content::held) != nullptr; }
  [[nodiscard]] bool holds_any() const {
    return std::ranges::any_of(slots_, [](const auto& s) { return s.second.state == content::held; });
  }
  [[nodiscard]] bool waits_for(std::size_t g) const {
    return std::ranges::any_of(waiting, [g](const auto& w) { return w.second == g; });
  }

  std::vector<group_kind> kinds;
  weight_ring::clock::time_point now{std::chrono::seconds(1)};
  std::vector<std::size_t> leases;                    ///< resident groups whose blocks are asked for, in that order
  std::size_t slot_leases = 0;                        ///< that are asked for
  std::vector<std::size_t> loads;                     ///< that are in flight, in the order in which they were asked for
  std::map<weight_ring::waiter, std::size_t> waiting; ///< and the groups that they wait for
  std::vector<std::size_t> delivered;
  std::vector<std::string> failures; ///< of waiters
  std::size_t slots = 0;             ///< as the ring counts them

private:
  static constexpr std::size_t budget = 1 << 20;

  enum class content : std::uint8_t { none, loading, ready, held };
  struct slot {
    std::weak_ptr<std::byte> memory; ///< expired: it was given up
    content state = content::none;
    std::size_t group = 0;
    bool may_be_empty = false; ///< the ring was told to shrink, and may have emptied it for that
  };

  static void take(std::vector<std::size_t>& from, std::size_t g) {
    const auto it = std::ranges::find(from, g);
    REQUIRE(it != from.end());
    from.erase(it);
  }
  [[nodiscard]] lease lease_of(const std::shared_ptr<std::byte>& bytes) const {
    return std::get<lease>(
        arbiter_->try_acquire({"host:0", 1, purpose::ring, priority::normal, outside_memory{bytes.get(), bytes}}));
  }
  [[nodiscard]] slot* slot_with(std::size_t g, content state) {
    const auto s = std::ranges::find_if(slots_, [&](const auto& other) {
      return other.second.state == state && other.second.group == g && !other.second.memory.expired();
    });
    return s == slots_.end() ? nullptr : &s->second;
  }

  void perform(weight_ring::actions todo) {
    for (const auto& action : todo)
      std::visit([this](const auto& a) { perform(a); }, action);
    todo.clear();
    check();
  }
  void perform(const weight_ring::lease_group& a) { leases.push_back(a.group); }
  void perform(const weight_ring::lease_slot&) { ++slot_leases; }
  void perform(const weight_ring::load& a) {
    REQUIRE(a.destination);
    loads.push_back(a.group);
    if (!streams(a.group)) {
      REQUIRE(a.destination.data() == resident_.at(a.group));
      return;
    }
    REQUIRE_FALSE(slot_with(a.group, content::loading));
    REQUIRE_FALSE(slot_with(a.group, content::held));
    auto& s = slots_.at(a.destination.data());
    REQUIRE(s.state != content::loading);
    REQUIRE(s.state != content::held);
    s.state = content::loading;
    s.group = a.group;
    s.may_be_empty = false;
  }
  void perform(const weight_ring::deliver& a) {
    REQUIRE(waiting.contains(a.to));
    REQUIRE(waiting.at(a.to) == a.group);
    waiting.erase(a.to);
    delivered.push_back(a.group);
    if (kinds[a.group] == group_kind::no_load) {
      REQUIRE_FALSE(a.weights);
    } else if (!streams(a.group)) {
      REQUIRE(a.weights.data() == resident_.at(a.group));
      REQUIRE(std::ranges::find(loads, a.group) == loads.end());
    } else {
      auto& s = slots_.at(a.weights.data());
      REQUIRE(s.group == a.group);
      REQUIRE((s.state == content::ready || s.state == content::held));
      s.state = content::held;
    }
  }
  void perform(const weight_ring::fail& a) {
    REQUIRE(waiting.erase(a.to) == 1);
    failures.emplace_back(a.why.what());
  }
  void perform(const weight_ring::count_slots& a) { slots = a.slots; }

  void check() {
    std::size_t there = 0;
    std::vector<bool> has_slot(kinds.size());
    for (const auto& [address, s] : slots_) {
      there += s.memory.expired() ? 0 : 1;
      if (s.memory.expired()) {
        REQUIRE(s.state != content::loading);
        REQUIRE(s.state != content::held);
      } else if (s.state != content::none && !s.may_be_empty) {
        REQUIRE_FALSE(has_slot[s.group]);
        has_slot[s.group] = true;
      }
    }
    REQUIRE(there == slots);
    std::erase_if(slots_, [](const auto& s) { return s.second.memory.expired(); });
  }

  std::shared_ptr<memory_arbiter> arbiter_ = memory_arbiter::make();
  std::map<const std::byte*, slot> slots_;
  std::map<std::size_t, const std::byte*> resident_; ///< where the groups' blocks are
  weight_ring::waiter last_waiter_ = 0;
  weight_ring ring_;
};

/// So many streamed groups, of which the last `output` are for logits.
inline weight_ring_setup streamed_groups(std::size_t count, std::size_t output, std::size_t slots,
                                         std::size_t spare_slots = 0) {
  weight_ring_setup setup;
  setup.device = "host:0";
  setup.groups.assign(count, group_kind::streamed);
  setup.norm_group = count - output;
  setup.slots = slots;
  setup.slot_bytes = 100;
  setup.spare_bytes = spare_slots * 100;
  return setup;
}

} // namespace tropilla::testing
