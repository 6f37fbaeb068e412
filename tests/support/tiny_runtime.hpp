/// A runtime over the tiny model, and its replies.
#pragma once

#include "tests/support/tiny_model.hpp"
#include "tropilla/runtime.hpp"

#include <vector>

namespace tropilla::testing {

inline runtime_config tiny_config(std::size_t threads = 2, std::size_t context = 256) {
  runtime_config c;
  c.model = tiny_model();
  c.threads = threads;
  c.context = context;
  return c;
}

/// The tokens of a reply, to its end. Throws what it failed with.
inline std::vector<token_id> ids_of(generation g) {
  std::vector<token_id> ids;
  for (const auto& p : g)
    if (p.id >= 0)
      ids.push_back(p.id);
  return ids;
}

} // namespace tropilla::testing
