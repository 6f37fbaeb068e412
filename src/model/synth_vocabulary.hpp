/// Makes the vocabulary of synthetic models: byte-level BPE of made-up words, and the special tokens of Llama 3.
#pragma once

#include "src/model/gguf_writer.hpp"

#include <cstddef>

namespace tropilla {

/// Puts `tokenizer.*` for `size` tokens: 256 bytes, merges, and 256 special tokens at the end, as in Llama 3.
/// Every merged token has exactly one merge, whose parts come before it. @pre 512 <= size <= 400,000
void put_vocabulary(gguf_builder& builder, std::size_t size);

} // namespace tropilla
