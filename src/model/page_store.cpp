// Chains the hashes of pages.
#include "src/model/page_store.hpp"

#include <algorithm>
#include <array>
#include <xxhash.h>

namespace tropilla {

void add_page_keys(page_key root, std::span<const token_id> tokens, std::vector<page_key>& keys) {
  while (keys.size() < tokens.size() / kv_page_tokens) {
    struct {
      page_key before;
      std::array<token_id, kv_page_tokens> tokens;
    } page{keys.empty() ? root : keys.back(), {}};
    std::ranges::copy(tokens.subspan(keys.size() * kv_page_tokens, kv_page_tokens), page.tokens.begin());
    const XXH128_hash_t hash = XXH3_128bits(&page, sizeof page);
    keys.push_back({hash.high64, hash.low64});
  }
}

} // namespace tropilla
