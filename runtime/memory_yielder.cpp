// Waits for pressure, and sets the budgets that `memory_yield` decides.
#include "runtime/memory_yielder.hpp"

#include "kernels/threads.hpp"
#include "memory/bytes.hpp"
#include "memory/error_of.hpp"

#include <algorithm>

namespace tropilla {

memory_yielder::memory_yielder(memory_yielder_setup setup) : setup_(std::move(setup)), source_(setup_.files) {
  auto sentences = source_.notices();
  if (setup_.devices.empty())
    sentences = {"no budget follows the memory pressure: that is for devices of the host, and there are none"};
  else if (!source_.watches_any())
    sentences.emplace_back("no budget follows the memory pressure: nothing says when there is any");
  if (setup_.notice)
    for (const auto& sentence : sentences)
      setup_.notice(sentence);
  for (const auto& d : setup_.devices)
    devices_.push_back({d.name, memory_yield(d.budget, setup_.pace)});
  if (!devices_.empty() && source_.watches_any())
    thread_ = start_thread("watching the memory pressure", [this] { run(); });
}

memory_yielder::~memory_yielder() {
  stop();
}

void memory_yielder::stop() noexcept {
  stopping_ = true;
  source_.wake();
}

void memory_yielder::join() {
  if (thread_.joinable())
    thread_.join();
}

void memory_yielder::client_sets(const std::string& device, std::size_t bytes, const std::function<void()>& set) {
  const std::lock_guard lock(mutex_);
  set();
  for (auto& d : devices_)
    if (d.name == device)
      d.decide.set_top(bytes);
}

void memory_yielder::run() {
  while (!stopping_) {
    const bool pressure = source_.wait(until_next_look());
    if (stopping_)
      return;
    const std::lock_guard lock(mutex_);
    for (auto& d : devices_)
      follow(d, pressure);
  }
}

std::optional<std::chrono::milliseconds> memory_yielder::until_next_look() {
  const std::lock_guard lock(mutex_);
  std::optional<memory_yield::clock::time_point> next;
  for (const auto& d : devices_)
    if (const auto look = d.decide.next_look())
      next = std::min(next.value_or(*look), *look);
  if (!next)
    return std::nullopt;
  return std::chrono::ceil<std::chrono::milliseconds>(*next - memory_yield::clock::now());
}

void memory_yielder::follow(followed& of, bool pressure) {
  const auto bytes = of.decide.look(pressure, memory_yield::clock::now());
  if (!bytes || stopping_)
    return;
  try {
    setup_.set_budget(*bytes, of.name);
    of.decide.changed(memory_yield::clock::now());
    setup_.log.info("{}: {} of a budget of {}, because the machine {}", of.name, human_bytes{*bytes},
                    human_bytes{of.decide.top()}, pressure ? "is short of memory" : "has memory again");
  } catch (...) {
    of.decide.refused(memory_yield::clock::now());
    setup_.log.debug("{}: the budget stays {}: {}", of.name, human_bytes{of.decide.current()},
                     error_of(std::current_exception()).what());
  }
}

} // namespace tropilla
