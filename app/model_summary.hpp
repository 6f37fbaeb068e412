/// Sums up the figures of a model's file.
#pragma once

#include "src/model/gguf.hpp"

#include <cstdint>
#include <string>

namespace tropilla::app {

struct model_summary {
  std::string architecture, name; ///< empty where the file does not say
  std::string type;               ///< the type with the largest number of parameters; empty without tensors
  std::uint64_t parameters = 0;
  std::uint64_t tensor_bytes = 0;
  std::uint64_t file_bytes = 0; ///< of all parts
};

[[nodiscard]] model_summary summarise(const gguf_file& file);

} // namespace tropilla::app
