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
#include <span>
#include <utility>

namespace tropilla {

using detail::arbiter_device;

struct memory_arbiter::impl {
  /// A request and the device that it is for.
  struct device_request {
    arbiter_device* on = nullptr;
    memory_request request;
  };

  struct waiter {
    ticket id = 0;
    priority rank{};
    std::vector<device_request> requests;
    std::function<void(grants)> done;
  };

  /// An answer that is due once the lock is released. What a request keeps alive ends after the lock, too.
  struct answer {
    std::function<void(grants)> done;
    grants what;
    std::vector<device_request> requests;
  };

  /// Work that is left for when the lock is released.
  struct aftermath {
    std::vector<answer> answers;
    std::vector<arbiter_device*> pressed; ///< whose reclaimers are to be asked
  };

  mutable std::mutex mutex;
  std::map<std::string, arbiter_device, std::less<>> devices;
  std::list<waiter> queue; ///< in the order in which they will be served
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

  [[nodiscard]] static std::string needs(std::span<const device_request> requests) {
    if (requests.size() == 1)
      return needs(requests[0].request);
    return requests.empty() ? "nothing"
                            : fmt::format("{} and {} more blocks", needs(requests[0].request), requests.size() - 1);
  }

  [[nodiscard]] std::optional<refusal> fault(std::span<const device_request> requests) {
    if (refuse_in == 0 || --refuse_in != 0)
      return std::nullopt;
    return refusal{0, needs(requests) + ": refused because a test asked for it"};
  }

  /// Sums, per device, what the requests take. A sum that can't be is the budget and more.
  static void count(std::span<const device_request> requests) noexcept {
    for (const auto& p : requests)
      p.on->asked = 0;
    for (const auto& p : requests) {
      const std::size_t budget = p.on->usage.budget;
      const std::size_t bytes = p.request.bytes > budget ? p.request.bytes : p.on->taken_by(p.request);
      p.on->asked = bytes > ~p.on->asked ? ~std::size_t{0} : p.on->asked + bytes;
    }
  }

  /// Returns why requests can never fit, or empty.
  [[nodiscard]] static std::optional<refusal> never(std::span<const device_request> requests) {
    count(requests);
    for (const auto& p : requests)
      if (const std::size_t budget = p.on->usage.budget, asked = p.on->asked; asked > budget)
        return refusal{asked - budget, fmt::format("{}: the whole budget is {}; it must be at least {}",
                                                   needs(requests), format_bytes(budget), format_bytes_up(asked))};
    return std::nullopt;
  }

  /// Takes all of the requests when they fit now, or none. In that case `starved` is set where a device has less memory
  /// than its budget: requests that wait would never learn of it.
  static bool take(std::span<const device_request> requests, std::span<lease> out,
                   const std::shared_ptr<memory_arbiter>& self, std::optional<refusal>& starved) {
    count(requests);
    for (const auto& p : requests)
      if (p.on->asked > p.on->room())
        return false;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      out[i] = lease(std::make_shared<lease::block>());
      std::string why;
      const auto allocated = requests[i].on->allocate(*out[i].block_, requests[i].request, why);
      if (allocated == arbiter_device::allocation::done)
        continue;
      if (allocated == arbiter_device::allocation::no_memory)
        starved = no_memory(requests[i], why);
      else
        requests[i].on->unallocated =
            requests[i].on->asked; // reclaimers are asked for as much: what it joins may be enough
      out[i].reset();
      while (i-- > 0) {
        requests[i].on->free(*out[i].block_);
        out[i].reset();
      }
      return false;
    }
    for (std::size_t i = 0; i < requests.size(); ++i) {
      out[i].block_->arbiter = self;
      requests[i].on->enter(*out[i].block_);
    }
    return true;
  }

  [[nodiscard]] static refusal no_memory(const device_request& p, std::string_view why) {
    return {0, fmt::format("{}: {}, though its budget of {} has {}; end what holds the rest, or lower the budget",
                           needs(p.request), why, format_bytes(p.on->usage.budget), format_bytes(p.on->room()))};
  }

  void enqueue(waiter w) {
    for (const auto& p : w.requests) {
      ++p.on->usage.waiters;
      p.on->usage.waiting_bytes += p.on->rounded(p.request);
    }
    const auto place = std::find_if(queue.begin(), queue.end(), [&](const auto& q) { return q.rank < w.rank; });
    queue.insert(place, std::move(w));
  }

  /// Takes a waiter out of the queue and owes it an answer. Returns the next.
  auto answer_with(std::list<waiter>::iterator w, grants what, aftermath& due) {
    for (const auto& p : w->requests) {
      --p.on->usage.waiters;
      p.on->usage.waiting_bytes -= p.on->rounded(p.request);
    }
    due.answers.push_back({std::move(w->done), std::move(what), std::move(w->requests)});
    return queue.erase(w);
  }

  [[nodiscard]] static bool should_press(const arbiter_device& a) noexcept {
    return !a.reclaimers.empty() && a.shortage() > 0;
  }

  /// Serves waiters in order. One that can't be served blocks its devices for those behind it, so that a large request
  /// is not overtaken for ever by small ones.
  void serve(const std::shared_ptr<memory_arbiter>& self, aftermath& due) {
    for (auto& [name, a] : devices) {
      a.blocked = false;
      a.unallocated = 0;
    }
    std::size_t open = devices.size();
    for (auto w = queue.begin(); w != queue.end() && open > 0;) {
      std::vector<lease> granted(w->requests.size());
      const bool first =
          std::none_of(w->requests.begin(), w->requests.end(), [](const auto& p) { return p.on->blocked; });
      std::optional<refusal> starved;
      if (first && take(w->requests, granted, self, starved)) {
        w = answer_with(w, std::move(granted), due);
        continue;
      }
      if (starved) {
        w = answer_with(w, std::move(*starved), due);
        continue;
      }
      for (const auto& p : w->requests)
        if (!std::exchange(p.on->blocked, true))
          --open;
      ++w;
    }
    // Every device is looked at: bytes that came back on one may have been the last that a waiter lacked there, and now
    // it is another's turn.
    for (auto& [name, a] : devices)
      if (should_press(a))
        due.pressed.push_back(&a);
  }

  /// Call without the lock.
  void settle(aftermath& due) {
    for (auto& d : due.answers)
      d.done(std::move(d.what));
    for (auto* a : due.pressed)
      press(*a);
  }

  /// Asks the reclaimers of a device in their order. One thread at a time: another's wish is noted and this one goes
  /// on, so that leases that come back inside of a reclaimer lead to no recursion. Call without the lock.
  void press(arbiter_device& a) {
    std::unique_lock lock(mutex);
    a.press_again = true;
    if (std::exchange(a.pressing, true))
      return;
    while (a.press_again && should_press(a)) {
      a.press_again = false;
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
    a.pressing = false;
  }

  void give_back(const lease::block& b) {
    aftermath due;
    {
      const std::lock_guard lock(mutex);
      devices.find(*b.device)->second.leave(b);
      serve(b.arbiter, due);
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
  const impl::device_request wanted{&a, request};
  const std::span requests(&wanted, 1);
  if (auto refused = impl_->fault(requests))
    return *refused;
  if (auto refused = impl::never(requests))
    return *refused;
  if (a.usage.waiters > 0)
    for (const auto& w : impl_->queue)
      if (w.rank >= request.rank &&
          std::any_of(w.requests.begin(), w.requests.end(), [&](auto& p) { return p.on == &a; }))
        return refusal{0,
                       fmt::format("{}: {} requests wait for memory before it", impl::needs(request), a.usage.waiters)};
  const std::size_t unallocated = a.unallocated; // of the waiters, not of this one
  lease granted;
  std::optional<refusal> starved;
  if (impl::take(requests, {&granted, 1}, shared_from_this(), starved))
    return granted;
  a.unallocated = unallocated;
  if (starved)
    return *starved;
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
  return acquire_all({request}, [done = std::move(done)](grants all) {
    if (auto* refused = std::get_if<refusal>(&all))
      done(std::move(*refused));
    else
      done(std::move(std::get<0>(all).front()));
  });
}

memory_arbiter::ticket memory_arbiter::acquire_all(std::vector<memory_request> requests,
                                                   std::function<void(grants)> done) {
  impl::aftermath due;
  ticket id = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    impl::waiter w;
    for (auto& r : requests) {
      auto& a = impl_->find(r.device);
      w.rank = std::max(w.rank, r.rank);
      w.requests.push_back({&a, std::move(r)});
    }
    id = w.id = impl_->next_ticket++;
    w.done = std::move(done);
    auto refused = impl_->fault(w.requests);
    if (!refused)
      refused = impl::never(w.requests);
    if (refused) {
      due.answers.push_back({std::move(w.done), *refused, std::move(w.requests)});
    } else {
      impl_->enqueue(std::move(w));
      impl_->serve(shared_from_this(), due);
    }
  }
  impl_->settle(due);
  return id;
}

bool memory_arbiter::cancel(ticket t) {
  impl::aftermath due;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto it = std::find_if(impl_->queue.begin(), impl_->queue.end(), [t](const auto& w) { return w.id == t; });
    if (it == impl_->queue.end())
      return false;
    impl_->answer_with(it, refusal{0, impl::needs(it->requests) + ": the request was cancelled"}, due);
    impl_->serve(shared_from_this(), due); // those behind it may fit
  }
  impl_->settle(due);
  return true;
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
    for (auto it = impl_->queue.begin(); it != impl_->queue.end();) {
      const auto refused = impl::never(it->requests);
      it = refused ? impl_->answer_with(it, *refused, due) : std::next(it);
    }
    impl_->serve(shared_from_this(), due);
  }
  impl_->settle(due);
}

void memory_arbiter::trim(const std::string& device) {
  const std::lock_guard lock(impl_->mutex);
  impl_->find(device).trim_all();
}

reclaim_registration memory_arbiter::add_reclaimer(const std::string& device, reclaimable what, reclaimer ask) {
  auto entry = std::make_shared<reclaim_registration::entry>();
  entry->what = what;
  entry->ask = std::move(ask);
  const std::lock_guard lock(impl_->mutex);
  auto& all = impl_->find(device).reclaimers;
  std::erase_if(all, [](const auto& r) { return r.expired(); });
  const auto place = std::find_if(all.begin(), all.end(), [&](const auto& r) {
    const auto other = r.lock();
    return other && other->what > what;
  });
  all.insert(place, entry);
  return reclaim_registration(std::move(entry));
}

void memory_arbiter::press(const std::string& device) {
  arbiter_device* a = nullptr;
  {
    const std::lock_guard lock(impl_->mutex);
    a = &impl_->find(device);
  }
  impl_->press(*a);
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
