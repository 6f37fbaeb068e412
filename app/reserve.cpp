// Replaces `new` and `delete` in the program: a reserve serves what the system refuses for long.
//
// Failing requests and closing a runtime take a little memory: messages, a sentence. Libraries that a process is made
// of (CAF before all) end it where that is refused. So the program keeps some, out of which small allocations are
// served when the system has refused them for a second. Programs that embed the library have a `new` of their own.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory_resource>
#include <mutex>
#include <new>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which have a `new` that knows more
namespace {

constexpr std::size_t reserve_bytes = std::size_t{4} << 20; // of address space, until it is needed
constexpr std::size_t largest_bytes = 64 << 10;
/// Before each block lies its size.
constexpr std::size_t header_bytes = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
static_assert(sizeof(std::size_t) <= header_bytes);

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): it is there before anything is constructed
alignas(64) std::byte storage[reserve_bytes];

class reserve {
public:
  static reserve& get() {
    static reserve one;
    return one;
  }

  [[nodiscard]] void* take(std::size_t bytes) {
    if (bytes > largest_bytes)
      throw std::bad_alloc();
    const std::lock_guard lock(mutex_);
    auto* const block = static_cast<std::byte*>(pool_.allocate(bytes + header_bytes));
    *reinterpret_cast<std::size_t*>(block) = bytes;
    return block + header_bytes;
  }

  void give_back(void* memory) {
    const std::lock_guard lock(mutex_);
    auto* const block = static_cast<std::byte*>(memory) - header_bytes;
    pool_.deallocate(block, *reinterpret_cast<std::size_t*>(block) + header_bytes);
  }

  [[nodiscard]] static bool has(const void* memory) noexcept {
    const std::less<> before;
    return !before(memory, storage) && before(memory, storage + reserve_bytes);
  }

private:
  std::mutex mutex_;
  std::pmr::monotonic_buffer_resource all_{storage, reserve_bytes, std::pmr::null_memory_resource()};
  std::pmr::unsynchronized_pool_resource pool_{{16, largest_bytes + header_bytes}, &all_};
};

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables)
/// Set when an allocation waited in vain and none has succeeded since: later ones do not wait.
constinit std::atomic<bool> exhausted = false;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

} // namespace

void* operator new(std::size_t bytes) {
  for (;;) {
    if (void* const memory = std::malloc(bytes > 0 ? bytes : 1)) {
      if (exhausted.load(std::memory_order_relaxed))
        exhausted.store(false, std::memory_order_relaxed);
      return memory;
    }
    const auto handler = std::get_new_handler();
    if (handler == nullptr || exhausted.load(std::memory_order_relaxed))
      return reserve::get().take(bytes);
    try {
      handler();
    } catch (const std::bad_alloc&) { // it has waited long enough
      exhausted.store(true, std::memory_order_relaxed);
    }
  }
}

void operator delete(void* memory) noexcept {
  if (reserve::has(memory))
    reserve::get().give_back(memory);
  else
    std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  operator delete(memory);
}
#endif
