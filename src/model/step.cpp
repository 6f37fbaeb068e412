// Makes steps, and points them at pages.
#include "src/model/step.hpp"

#include <atomic>

namespace tropilla {

std::shared_ptr<step> blank_step(std::shared_ptr<step>& last) {
  // Other holders have finished reading the step. ThreadSanitizer knows no fences, so the tests that it runs have their
  // steps on one thread.
  if (last.use_count() == 1) {
#ifndef __SANITIZE_THREAD__
    std::atomic_thread_fence(std::memory_order_acquire);
#endif
    last->clear();
  } else {
    last = std::make_shared<step>();
  }
  return last;
}

void bind_pages(step& s, std::span<std::byte* const> starts) {
  s.page_starts.clear(); // of the device before
  for (const auto page : s.pages)
    s.page_starts.push_back(starts[page]);
  std::byte* const* next = s.page_starts.data();
  for (auto& rows : s.sequences) {
    rows.pages = next;
    next += kv_pages_for(rows.position + rows.rows);
  }
}

} // namespace tropilla
