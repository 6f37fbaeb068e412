// Implements the arbiter with one lock around plain devices. Answers are collected under the lock and given after it;
// reclaimers are asked without it, too.
#include "memory/arbiter.hpp"

#include "memory/arbiter_device.hpp"
#include "memory/bytes.hpp"
#include "memory/lease_block.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <list>
#include <map>
#include <mutex>
#include <utility>

namespace tropilla {

using detail::arbiter_device;

struct memory_arbiter::impl {
  /// An answer that is due once the lock is released. What the request keeps alive ends after the lock, too.
  struct answer {
    arbiter_device::waiter to;
    grant what;
  };

  /// Work that is left for when the lock is released.
  struct aftermath {
    std::vector<answer> answers;
    arbiter_device* short_of_bytes = nullptr; ///< its reclaimers are asked
  };

  mutable std::mutex mutex;
  std::map<std::string, arbiter_device, std::less<>> devices;
  ticket next_ticket = 1;
  std::uint64_t refuse_in = 0; ///< acquisitions until one is refused for a test; 0: never

  arbiter_device& find(const std::string& device) {
    const auto it = devices.find(device);
    if (it == devices.end())
      throw error(errc::invalid_argument, fmt::format("there is no device \"{}\"", device));
    return it->second;
  }

  [[nodiscard]] static std::string needs(const memory_request& r) {
    return fmt::format("{} for {} on {}", format_bytes(r.bytes), to_string(r.used_for), r.device);
  }

  [[nodiscard]] std::optional<refusal> fault(const memory_request& r) {
    if (refuse_in == 0 || --refuse_in != 0)
      return std::nullopt;
    return refusal{0, needs(r) + ": refused because a test asked for it"};
  }

  /// Returns why a request can never fit, or nothing.
  [[nodiscard]] static std::optional<refusal> never(const arbiter_device& a, const memory_request& r) {
    const std::size_t budget = a.usage.budget, bytes = a.taken_by(r);
    if (bytes <= budget)
      return std::nullopt;
    return refusal{bytes - budget, fmt::format("{}: the whole budget is {}; it must be at least {}", needs(r),
                                               format_bytes(budget), format_bytes_up(bytes))};
  }

  /// Grants a request that fits now; returns nothing when it does not. One that fits is refused where the device has
  /// less memory than its budget: a request that waits would never learn of it.
  [[nodiscard]] static std::optional<grant> take(arbiter_device& a, const memory_request& r,
                                                 const std::shared_ptr<memory_arbiter>& self) {
    if (a.taken_by(r) > a.room())
      return std::nullopt;
    lease granted(std::make_shared<lease::block>());
    std::string why;
    const auto allocated = a.allocate(*granted.block_, r, why);
    if (allocated == arbiter_device::allocation::no_block)
      return std::nullopt;
    if (allocated == arbiter_device::allocation::no_memory)
      return refusal{0,
                     fmt::format("{}: {}, though its budget of {} has {}; end what holds the rest, or lower the budget",
                                 needs(r), why, format_bytes(a.usage.budget), format_bytes(a.room()))};
    granted.block_->arbiter = self;
    a.enter(*granted.block_);
    return granted;
  }

  static void enqueue(arbiter_device& a, arbiter_device::waiter w) {
    a.usage.waiting_bytes += a.rounded(w.request);
    const auto place =
        std::find_if(a.queue.begin(), a.queue.end(), [&](const auto& q) { return q.request.rank < w.request.rank; });
    a.queue.insert(place, std::move(w));
  }

  /// Takes a waiter out of the queue and owes it an answer. Returns the next.
  static auto answer_with(arbiter_device& a, std::list<arbiter_device::waiter>::iterator w, grant what,
                          aftermath& due) {
    a.usage.waiting_bytes -= a.rounded(w->request);
    due.answers.push_back({std::move(*w), std::move(what)});
    return a.queue.erase(w);
  }

  [[nodiscard]] static bool should_ask(const arbiter_device& a) noexcept {
    return !a.reclaimers.empty() && a.shortage() > 0;
  }

  /// Serves the waiters of a device in order, up to one that can't be served: those behind it wait, too, so that a
  /// large request is not overtaken for ever by small ones.
  static void serve(arbiter_device& a, const std::shared_ptr<memory_arbiter>& self, aftermath& due) {
    while (!a.queue.empty()) {
      auto answered = take(a, a.queue.front().request, self);
      if (!answered)
        break;
      answer_with(a, a.queue.begin(), std::move(*answered), due);
    }
    if (should_ask(a))
      due.short_of_bytes = &a;
  }

  /// Call without the lock.
  void settle(aftermath& due) {
    for (auto& d : due.answers)
      d.to.done(std::move(d.what));
    if (due.short_of_bytes)
      ask_reclaimers(*due.short_of_bytes);
  }

  /// Asks the reclaimers of a device in their order for what is short. One thread at a time: another's wish is noted
  /// and this one goes on, so that leases that come back inside of a reclaimer lead to no recursion. Call without the
  /// lock.
  void ask_reclaimers(arbiter_device& a) {
    std::unique_lock lock(mutex);
    a.ask_again = true;
    if (std::exchange(a.asking, true))
      return;
    while (a.ask_again && should_ask(a)) {
      a.ask_again = false;
      std::size_t wanted = a.shortage();
      std::vector<std::shared_ptr<reclaim_registration::entry>> asked;
      std::erase_if(a.reclaimers, [](const auto& r) { return r.expired(); });
      for (const auto& r : a.reclaimers)
        asked.push_back(r.lock());
      lock.unlock();
      for (const auto& r : asked)
        if (r && wanted > 0)
          wanted -= std::min(wanted, r->give_back(wanted));
      asked.clear(); // a registration that ended meanwhile goes without the lock
      lock.lock();
    }
    a.asking = false;
  }

  void give_back(const lease::block& b) {
    aftermath due;
    {
      const std::lock_guard lock(mutex);
      auto& a = devices.find(*b.device)->second;
      a.leave(b);
      serve(a, b.arbiter, due);
    }
    settle(due);
  }
};

lease::block::~block() {
  if (arbiter)
    arbiter->impl_->give_back(*this);
}

memory_arbiter::memory_arbiter() : impl_(std::make_unique<impl>()) {}
memory_arbiter::~memory_arbiter() = default;

std::shared_ptr<memory_arbiter> memory_arbiter::make() {
  return std::shared_ptr<memory_arbiter>(new memory_arbiter); // the constructor is private
}

void memory_arbiter::add_device(const device_setup& setup) {
  if (setup.budget > setup.reservation_bytes)
    throw error(errc::invalid_argument,
                fmt::format("the budget of {} ({}) is larger than its reservation ({})", setup.name,
                            format_bytes(setup.budget), format_bytes(setup.reservation_bytes)));
  const std::lock_guard lock(impl_->mutex);
  const auto [it, is_new] = impl_->devices.try_emplace(setup.name, setup);
  if (!is_new)
    throw error(errc::invalid_argument, fmt::format("there already is a device \"{}\"", setup.name));
  it->second.name = &it->first;
}

void memory_arbiter::add_device(const std::string& name, std::byte* base, std::size_t reservation_bytes,
                                std::size_t budget, std::size_t alignment) {
  add_device({name, base, reservation_bytes, budget, alignment});
}

memory_arbiter::grant memory_arbiter::try_acquire(const memory_request& request) {
  const std::lock_guard lock(impl_->mutex);
  auto& a = impl_->find(request.device);
  if (auto refused = impl_->fault(request))
    return *std::move(refused);
  if (auto refused = impl::never(a, request))
    return *std::move(refused);
  if (!a.queue.empty() && a.queue.front().request.rank >= request.rank)
    return refusal{0, fmt::format("{}: {} requests wait for memory before it", impl::needs(request), a.queue.size())};
  if (auto answered = impl::take(a, request, shared_from_this()))
    return *std::move(answered);
  const std::size_t missing = request.bytes - std::min(request.bytes, a.room());
  if (missing == 0)
    return refusal{0, fmt::format("{}: the budget has {} left, but the largest free block of the pool is {}",
                                  impl::needs(request), format_bytes(a.room()),
                                  format_bytes(a.blocks.statistics().largest_free))};
  return refusal{missing,
                 fmt::format("{}: {} of the budget of {} are in use, {} too much", impl::needs(request),
                             format_bytes(a.usage.in_use), format_bytes(a.usage.budget), format_bytes(missing))};
}

memory_arbiter::ticket memory_arbiter::acquire(const memory_request& request, std::function<void(grant)> done) {
  impl::aftermath due;
  ticket id = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    auto& a = impl_->find(request.device);
    id = impl_->next_ticket++;
    arbiter_device::waiter w{id, request, std::move(done)};
    auto refused = impl_->fault(request);
    if (!refused)
      refused = impl::never(a, request);
    if (refused) {
      due.answers.push_back({std::move(w), *std::move(refused)});
    } else {
      impl::enqueue(a, std::move(w));
      impl::serve(a, shared_from_this(), due);
    }
  }
  impl_->settle(due);
  return id;
}

bool memory_arbiter::cancel(ticket t) {
  impl::aftermath due;
  {
    const std::lock_guard lock(impl_->mutex);
    for (auto& [name, a] : impl_->devices) {
      const auto it = std::find_if(a.queue.begin(), a.queue.end(), [t](const auto& w) { return w.id == t; });
      if (it == a.queue.end())
        continue;
      impl::answer_with(a, it, refusal{0, impl::needs(it->request) + ": the request was cancelled"}, due);
      impl::serve(a, shared_from_this(), due); // those behind it may fit
      break;
    }
  }
  impl_->settle(due);
  return !due.answers.empty();
}

void memory_arbiter::set_budget(const std::string& device, std::size_t budget) {
  impl::aftermath due;
  {
    const std::lock_guard lock(impl_->mutex);
    auto& a = impl_->find(device);
    if (const auto capacity = a.blocks.statistics().capacity; budget > capacity)
      throw error(errc::invalid_argument, fmt::format("the budget of {} can't be {}: {} are reserved for its pool",
                                                      device, format_bytes_up(budget), format_bytes(capacity)));
    a.set_budget(budget);
    for (auto it = a.queue.begin(); it != a.queue.end();) {
      const auto refused = impl::never(a, it->request);
      it = refused ? impl::answer_with(a, it, *refused, due) : std::next(it);
    }
    impl::serve(a, shared_from_this(), due);
  }
  impl_->settle(due);
}

void memory_arbiter::trim(const std::string& device) {
  const std::lock_guard lock(impl_->mutex);
  impl_->find(device).trim_all();
}

reclaim_registration memory_arbiter::add_reclaimer(const std::string& device, reclaimer ask) {
  auto entry = std::make_shared<reclaim_registration::entry>();
  entry->ask = std::move(ask);
  const std::lock_guard lock(impl_->mutex);
  auto& all = impl_->find(device).reclaimers;
  std::erase_if(all, [](const auto& r) { return r.expired(); });
  all.push_back(entry);
  return reclaim_registration(std::move(entry));
}

std::shared_ptr<void> memory_arbiter::observe(const std::string& device,
                                              std::function<void(const memory_change&)> hear) {
  std::unique_lock lock(impl_->mutex);
  auto& observers = impl_->find(device).observers;
  const auto which = observers.insert(observers.end(), std::move(hear));
  lock.unlock(); // when there is no memory for the result, it is given up at once
  return {&*which, [self = shared_from_this(), &observers, which](void*) {
            const std::lock_guard until_erased(self->impl_->mutex);
            observers.erase(which);
          }};
}

device_usage memory_arbiter::usage(const std::string& device) const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->find(device).describe();
}

std::vector<device_usage> memory_arbiter::usage() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<device_usage> all;
  for (const auto& [name, a] : impl_->devices)
    all.push_back(a.describe());
  return all;
}

void memory_arbiter::refuse_acquisition(std::uint64_t n) {
  const std::lock_guard lock(impl_->mutex);
  impl_->refuse_in = n;
}

} // namespace tropilla
