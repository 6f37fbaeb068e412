// The block that copies of a lease share: internal to the arbiter.
#pragma once

#include "memory/arbiter.hpp"

namespace tropilla {

struct lease::block {
  std::shared_ptr<memory_arbiter> arbiter; ///< null until the arbiter counts the block
  const std::string* device = nullptr;     ///< the arbiter's, which this block keeps alive
  std::byte* data = nullptr;
  pool::block pool_block;
  bool outside = false;             ///< counted, but not in the pool
  bool shared = false;              ///< memory outside that was leased before, and is counted there
  std::shared_ptr<void> keep_alive; ///< of memory outside
  std::size_t bytes = 0;
  purpose used_for{};

  block() = default;
  block(const block&) = delete;
  block& operator=(const block&) = delete;
  ~block();
};

} // namespace tropilla
