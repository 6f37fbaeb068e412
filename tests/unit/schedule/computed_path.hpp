/// Paths of KV pages whose tokens are computed, as a batcher has them.
#pragma once

#include "src/schedule/kv_pages.hpp"

#include <catch2/catch.hpp>
#include <optional>
#include <vector>

namespace tropilla::testing {

/// The path of these tokens, found as far as it is there, and computed. @pre there are pages for the rest
inline kv_pages::path computed(kv_pages& pages, const std::vector<token_id>& tokens) {
  std::optional<page_copy> copy;
  auto p = pages.find(tokens, copy);
  if (copy)
    pages.copied(*copy);
  while (p.pages.size() * kv_page_tokens < tokens.size())
    REQUIRE(pages.extend(p));
  pages.append(p, {tokens.data() + p.tokens, tokens.size() - p.tokens});
  return p;
}

} // namespace tropilla::testing
