/// Copies the beginning of a page of the KV cache.
#pragma once

#include "kernels/kv_cache.hpp"

namespace tropilla {

/// Copies the first `tokens` tokens of one layer of a page, and makes what lies behind them zero. Of `from` it reads
/// these tokens alone: others may be writing the rest.
void copy_kv_tokens(kv_type type, std::size_t kv_heads, std::size_t key_size, std::size_t value_size,
                    const std::byte* from, std::byte* to, std::size_t tokens) noexcept;

} // namespace tropilla
