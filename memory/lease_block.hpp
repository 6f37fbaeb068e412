// What a lease shares: internal to the ledger.
#pragma once

#include "memory/arbiter.hpp"

namespace tropilla {

struct lease::block {
  std::shared_ptr<arbiter> ledger;     ///< null until the ledger counts the block
  const std::string* device = nullptr; ///< the ledger's, which this block keeps alive
  std::byte* data = nullptr;
  pool::block place;
  bool outside = false;             ///< accounted for, but not in the pool
  bool shared = false;              ///< memory outside that was leased before, and is counted there
  std::shared_ptr<void> keep_alive; ///< of memory outside
  std::size_t bytes = 0;
  purpose why{};

  block() = default;
  block(const block&) = delete;
  block& operator=(const block&) = delete;
  ~block();
};

} // namespace tropilla
