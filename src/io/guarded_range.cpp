// Handles SIGBUS, and keeps the ranges that the handler knows.
#include "src/io/guarded_range.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace tropilla {

/// State that the handler may touch: memory that is always there, and atomics.
struct sigbus {
  /// The largest number of ranges: one per mapped model and device of the host.
  static constexpr int max_ranges = 64;

  // NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): nothing can be passed to a signal's handler
  static inline std::array<std::atomic<guarded_range*>, max_ranges> ranges{};
  static inline std::atomic<int> handling = 0; ///< handlers under way, that may look at ranges
  static inline struct sigaction before {};    ///< written before our handler is installed
  static inline std::mutex mutex;              ///< guards adding and removing ranges
  static inline int count = 0;
  static inline bool installed = false;
  // NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

  /// The kernel's call and not mmap: other threads read the range meanwhile, and may, which a sanitizer in front of
  /// mmap takes for a race.
  static bool zeros_at(std::byte* begin, std::size_t bytes, long protection) noexcept {
    constexpr long flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    return ::syscall(SYS_mmap, begin, bytes, protection, flags, -1L, 0L) != -1;
  }

  /// Saves the range at an address; false when there is none, or it can't be saved.
  static bool save(std::byte* at) noexcept {
    for (auto& slot : ranges) {
      auto* const r = slot.load();
      if (r == nullptr || at < r->begin_ || at >= r->begin_ + r->bytes_)
        continue;
      auto found = guarded_range::state::whole;
      if (r->state_.compare_exchange_strong(found, guarded_range::state::losing)) {
        const bool saved = zeros_at(r->begin_, r->bytes_, PROT_READ);
        r->state_ = guarded_range::state::lost;
        return saved;
      }
      if (found == guarded_range::state::losing)
        return true; // another thread's handler is at it: the instruction is tried again until it is done
      // Other parts may have been replaced meanwhile.
      const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
      return zeros_at(at - reinterpret_cast<std::uintptr_t>(at) % page, page, PROT_READ);
    }
    return false;
  }

  static void handle(int signal, siginfo_t* facts, void* context) noexcept {
    const int saved_errno = errno;
    ++handling;
    // A signal sent with kill(2) has no address.
    const bool saved = facts->si_code > 0 && save(static_cast<std::byte*>(facts->si_addr));
    --handling;
    if (!saved)
      hand_on(signal, facts, context);
    errno = saved_errno;
  }

  static void hand_on(int signal, siginfo_t* facts, void* context) noexcept {
    if ((before.sa_flags & SA_SIGINFO) != 0)
      return before.sa_sigaction(signal, facts, context);
    if (before.sa_handler == SIG_IGN && facts->si_code <= 0)
      return;
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
      return before.sa_handler(signal);
    // The default: as the instruction is tried again, or by the signal sent anew.
    ::signal(signal, SIG_DFL);
    if (facts->si_code <= 0)
      ::raise(signal);
  }

  static bool install() noexcept {
    struct sigaction ours {};
    ours.sa_sigaction = &sigbus::handle;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    return ::sigaction(SIGBUS, nullptr, &before) == 0 && ::sigaction(SIGBUS, &ours, nullptr) == 0;
  }

  /// Uninstalls our handler, unless another one was installed on top of it, which may hand on to ours: then ours stays.
  static void uninstall() noexcept {
    struct sigaction now {};
    if (::sigaction(SIGBUS, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
        now.sa_sigaction == &sigbus::handle)
      installed = ::sigaction(SIGBUS, &before, nullptr) != 0;
  }

  static int add(guarded_range* r) noexcept {
    const std::lock_guard lock(mutex);
    for (int i = 0; i < max_ranges; ++i) {
      if (ranges[i].load() != nullptr)
        continue;
      if (!installed && !(installed = install()))
        return -1;
      ++count;
      ranges[i] = r;
      return i;
    }
    return -1;
  }

  static void remove(int slot) noexcept {
    const std::lock_guard lock(mutex);
    ranges[slot] = nullptr;
    while (handling > 0) // one may be looking at the range, on behalf of another one
      std::this_thread::yield();
    if (--count == 0)
      uninstall();
  }
};

guarded_range::guarded_range(std::byte* begin, std::size_t bytes)
    : begin_(begin), bytes_(bytes), slot_(sigbus::add(this)) {}

guarded_range::~guarded_range() {
  if (slot_ >= 0)
    sigbus::remove(slot_);
}

void guarded_range::lose() noexcept {
  auto found = state::whole;
  (void)state_.compare_exchange_strong(found, state::lost);
}

bool guarded_range::replace(std::byte* begin, std::size_t bytes) const noexcept {
  while (state_.load() == state::losing) // for as long as one call of the system takes
    std::this_thread::yield();
  return sigbus::zeros_at(begin, bytes, PROT_READ | PROT_WRITE);
}

} // namespace tropilla
