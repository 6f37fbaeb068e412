// One lock around plain accounts. Answers are collected under it and given after it.
#include "memory/arbiter.hpp"

#include "memory/lease_block.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <list>
#include <map>
#include <mutex>
#include <optional>

namespace tropilla {

struct arbiter::impl {
  struct waiter {
    ticket id = 0;
    memory_request request;
    std::function<void(grant)> done;
  };

  struct account {
    const std::string* name = nullptr;
    std::byte* base = nullptr;
    pool blocks;
    std::list<waiter> queue; ///< in the order in which they will be served
    device_usage usage;

    account(std::byte* b, std::size_t reservation, std::size_t alignment) : base(b), blocks(reservation, alignment) {}
  };

  /// An answer that is due once the lock is released.
  struct answer {
    std::function<void(grant)> done;
    grant what;
  };

  mutable std::mutex mutex;
  std::map<std::string, account, std::less<>> accounts;
  ticket next_ticket = 1;

  account& find(const std::string& device) {
    const auto it = accounts.find(device);
    if (it == accounts.end())
      throw error(errc::invalid_argument, fmt::format("there is no device \"{}\"", device));
    return it->second;
  }

  [[nodiscard]] static std::string needs(const memory_request& r) {
    return fmt::format("{} for {} on {}", format_bytes(r.bytes), to_string(r.why), r.device);
  }

  /// Why a request can't ever fit, or empty. Requests are compared before rounding, which may wrap.
  [[nodiscard]] static std::optional<refusal> never(const account& a, const memory_request& r) {
    const std::size_t budget = a.usage.budget;
    if (r.bytes > budget || a.blocks.rounded(r.bytes) > budget)
      return refusal{r.bytes - std::min(r.bytes, budget),
                     fmt::format("{}: the whole budget is {} ({} bytes); it must be at least {} bytes", needs(r),
                                 format_bytes(budget), budget, r.bytes)};
    return std::nullopt;
  }

  /// The block, when it fits now.
  lease try_take(account& a, const memory_request& r, const std::shared_ptr<arbiter>& self) {
    const std::size_t rounded = a.blocks.rounded(r.bytes);
    auto& u = a.usage;
    if (u.in_use > u.budget || rounded > u.budget - u.in_use)
      return {};
    const auto place = a.blocks.allocate(r.bytes);
    if (!place)
      return {};
    auto block = std::make_shared<lease::block>();
    block->device = a.name;
    block->data = a.base ? a.base + place->offset : nullptr;
    block->place = *place;
    block->bytes = r.bytes;
    block->why = r.why;
    block->ledger = self;
    const auto why = static_cast<std::size_t>(r.why);
    u.in_use += rounded;
    u.high_water = std::max(u.high_water, u.in_use);
    u.by_purpose[why] += rounded;
    u.high_water_by_purpose[why] = std::max(u.high_water_by_purpose[why], u.by_purpose[why]);
    return lease(std::move(block));
  }

  /// Serves waiters strictly in order, so that a large request is not overtaken for ever by small ones.
  void serve(account& a, const std::shared_ptr<arbiter>& self, std::vector<answer>& due) {
    while (!a.queue.empty()) {
      auto& first = a.queue.front();
      auto granted = try_take(a, first.request, self);
      if (!granted)
        return;
      due.push_back({std::move(first.done), std::move(granted)});
      a.queue.pop_front();
    }
  }

  static void give(std::vector<answer>& due) {
    for (auto& d : due)
      d.done(std::move(d.what));
  }

  [[nodiscard]] static device_usage describe(const account& a) {
    auto u = a.usage;
    u.pool = a.blocks.statistics();
    u.waiters = a.queue.size();
    for (const auto& w : a.queue)
      u.waiting_bytes += w.request.bytes;
    return u;
  }

  void give_back(const lease::block& b) {
    std::vector<answer> due;
    {
      const std::lock_guard lock(mutex);
      auto& a = accounts.find(*b.device)->second;
      const std::size_t rounded = a.blocks.rounded(b.bytes);
      a.blocks.free(b.place);
      a.usage.in_use -= rounded;
      a.usage.by_purpose[static_cast<std::size_t>(b.why)] -= rounded;
      serve(a, b.ledger, due);
    }
    give(due);
  }
};

lease::block::~block() {
  if (ledger)
    ledger->impl_->give_back(*this);
}

arbiter::arbiter() : impl_(std::make_unique<impl>()) {}
arbiter::~arbiter() = default;

std::shared_ptr<arbiter> arbiter::make() {
  return std::shared_ptr<arbiter>(new arbiter); // the constructor is private
}

void arbiter::add_device(const std::string& name, std::byte* base, std::size_t reservation_bytes, std::size_t budget,
                         std::size_t alignment) {
  if (budget > reservation_bytes)
    throw error(errc::invalid_argument, fmt::format("the budget of {} ({}) is larger than its reservation ({})", name,
                                                    format_bytes(budget), format_bytes(reservation_bytes)));
  const std::lock_guard lock(impl_->mutex);
  const auto [it, is_new] = impl_->accounts.try_emplace(name, base, reservation_bytes, alignment);
  if (!is_new)
    throw error(errc::invalid_argument, fmt::format("there already is a device \"{}\"", name));
  it->second.name = &it->first;
  it->second.usage.device = name;
  it->second.usage.budget = budget;
}

arbiter::grant arbiter::try_acquire(const memory_request& request) {
  const std::lock_guard lock(impl_->mutex);
  auto& a = impl_->find(request.device);
  if (auto refused = impl::never(a, request))
    return *refused;
  const auto& u = a.usage;
  if (!a.queue.empty() && a.queue.front().request.rank >= request.rank)
    return refusal{0, fmt::format("{}: {} requests wait for memory before it", impl::needs(request), a.queue.size())};
  if (auto granted = impl_->try_take(a, request, shared_from_this()))
    return granted;
  const std::size_t free = u.budget - std::min(u.budget, u.in_use);
  const std::size_t missing = request.bytes - std::min(request.bytes, free);
  return refusal{missing, fmt::format("{}: {} of the budget of {} are in use, {} too much", impl::needs(request),
                                      format_bytes(u.in_use), format_bytes(u.budget), format_bytes(missing))};
}

arbiter::ticket arbiter::acquire(const memory_request& request, std::function<void(grant)> done) {
  std::vector<impl::answer> due;
  ticket id = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    auto& a = impl_->find(request.device);
    id = impl_->next_ticket++;
    if (auto refused = impl::never(a, request)) {
      due.push_back({std::move(done), *refused});
    } else {
      const auto place =
          std::find_if(a.queue.begin(), a.queue.end(), [&](const auto& w) { return w.request.rank < request.rank; });
      a.queue.insert(place, {id, request, std::move(done)});
      impl_->serve(a, shared_from_this(), due);
    }
  }
  impl::give(due);
  return id;
}

bool arbiter::cancel(ticket t) {
  std::vector<impl::answer> due;
  {
    const std::lock_guard lock(impl_->mutex);
    for (auto& [name, a] : impl_->accounts) {
      const auto it = std::find_if(a.queue.begin(), a.queue.end(), [t](const auto& w) { return w.id == t; });
      if (it == a.queue.end())
        continue;
      due.push_back({std::move(it->done), refusal{0, impl::needs(it->request) + ": the request was cancelled"}});
      a.queue.erase(it);
      impl_->serve(a, shared_from_this(), due); // those behind it may fit
      break;
    }
  }
  impl::give(due);
  return !due.empty();
}

void arbiter::set_budget(const std::string& device, std::size_t budget) {
  std::vector<impl::answer> due;
  {
    const std::lock_guard lock(impl_->mutex);
    auto& a = impl_->find(device);
    if (const auto capacity = a.blocks.statistics().capacity; budget > capacity)
      throw error(errc::invalid_argument,
                  fmt::format("the budget of {} can't be {} ({} bytes): {} bytes are reserved for its pool", device,
                              format_bytes(budget), budget, capacity));
    a.usage.budget = budget;
    for (auto it = a.queue.begin(); it != a.queue.end();) {
      const auto refused = impl::never(a, it->request);
      if (refused)
        due.push_back({std::move(it->done), *refused});
      it = refused ? a.queue.erase(it) : std::next(it);
    }
    impl_->serve(a, shared_from_this(), due);
  }
  impl::give(due);
}

device_usage arbiter::usage(const std::string& device) const {
  const std::lock_guard lock(impl_->mutex);
  return impl::describe(impl_->find(device));
}

std::vector<device_usage> arbiter::usage() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<device_usage> all;
  for (const auto& [name, a] : impl_->accounts)
    all.push_back(impl::describe(a));
  return all;
}

} // namespace tropilla
