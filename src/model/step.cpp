// Makes and ends steps, and points them at pages.
#include "src/model/step.hpp"

#include <atomic>

namespace tropilla {
namespace {

/// Whether this is the only holder, and others have finished reading. ThreadSanitizer knows no fences, so the tests
/// that it runs have their steps on one thread.
template <class T>
bool only_holder(const std::shared_ptr<T>& p) {
  if (p.use_count() != 1)
    return false;
#ifndef __SANITIZE_THREAD__
  std::atomic_thread_fence(std::memory_order_acquire);
#endif
  return true;
}

} // namespace

std::shared_ptr<step> blank_step(std::shared_ptr<step>& last) {
  if (only_holder(last))
    last->clear();
  else
    last = std::make_shared<step>();
  return last;
}

void drop_table(std::shared_ptr<step>& ended) {
  if (only_holder(ended))
    ended->table.reset();
  else
    ended.reset();
}

kv_page_table& to_change(std::shared_ptr<kv_page_table>& table) {
  if (!only_holder(table))
    table = std::make_shared<kv_page_table>(*table);
  return *table;
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
