/// Waits for another thread without giving the core away at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <sched.h>

namespace tropilla {

/// Tells the core that this is a loop that waits.
inline void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

/// Repeats `done` until it is true or `limit` has passed, letting other threads have the core in between.
/// Gives whether it became true.
template <class F>
bool spin_for(std::chrono::nanoseconds limit, F&& done) {
  // A look costs about as much as a pause (20 to 50 ns), a yield with nothing else to run 200 to 500 ns.
  constexpr int looks = 32;
  const auto end = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < looks; ++i) {
      if (done())
        return true;
      relax();
    }
    sched_yield();
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

} // namespace tropilla
