/// Computes a fingerprint that tells apart models whose keys and values must not be mixed up.
#pragma once

#include "src/io/packed_cache.hpp"
#include "src/model/llama_config.hpp"

#include <filesystem>
#include <span>

namespace tropilla {

/// A hash of the hyper-parameters that keys and values depend on, and of each tensor's name, type, shape and some bytes
/// of its contents: a fine-tuned model differs from what it was made of, a copy of the file does not. Reads a few
/// hundred bytes per tensor. Throws `error` (io_error).
[[nodiscard]] packed_key fingerprint_of(const llama_config& model, std::span<const std::filesystem::path> files);

} // namespace tropilla
