/// How a model is divided between devices: layers between stages, and the matrices of each layer between the devices of
/// a stage.
#pragma once

#include <cstddef>
#include <string_view>

namespace tropilla {

struct device_split {
  std::size_t pipeline = 1; ///< stages, each with some of the layers
  std::size_t tensor = 1;   ///< devices of a stage, each with a share of every matrix

  [[nodiscard]] std::size_t devices() const noexcept { return pipeline * tensor; }
};

/// Reads "pipeline=2", "tensor=2" or "pipeline=2,tensor=2"; empty, or with a kind left out: as many stages as `named`
/// devices make. `named`: 0: as many as the text says. Throws `error` (invalid_argument) for anything else.
[[nodiscard]] device_split parse_split(std::string_view text, std::size_t named);

} // namespace tropilla
