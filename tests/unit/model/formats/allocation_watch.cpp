// The global allocator of this test program, so that tests can see what a bad file makes the library ask for. In a file
// of its own: inlined into other code, GCC takes its malloc and free for mismatches of new and delete.
#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): operator new has no other place for it
thread_local std::size_t largest_allocation = 0;

void* allocate(std::size_t bytes) {
  largest_allocation = std::max(largest_allocation, bytes);
  if (void* memory = std::malloc(std::max<std::size_t>(bytes, 1)))
    return memory;
  throw std::bad_alloc();
}

} // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes);
}
void* operator new[](std::size_t bytes) {
  return allocate(bytes);
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(std::max<std::size_t>(bytes, 1));
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return std::malloc(std::max<std::size_t>(bytes, 1));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace tropilla::testing {

allocation_watch::allocation_watch() {
  largest_allocation = 0;
}

std::size_t allocation_watch::largest() const {
  return largest_allocation;
}

} // namespace tropilla::testing
