/// Measures how fast a device computes the layers of a model: many tokens at once, which is bound by arithmetic, and
/// one token, which is bound by reading weights. The weights are made up, because values don't matter for speed.
///
/// Both functions take the device's reservation and scratch: it is of no use for anything else after. Both throw
/// `error` (io_error) when the system refuses memory.
#pragma once

#include "src/model/llama_layout.hpp"

#include <cstddef>

namespace tropilla {

/// Values of the group's matrices. Each costs a multiplication and an addition per row.
[[nodiscard]] std::size_t matrix_parameters(const weight_group_layout& group);

/// Operations per second of the model's first layer with as many rows, up to `rows`, as take `seconds` together: two
/// for each parameter of its matrices and each row. Attention over the rows, norms and all else that a layer does count
/// as time and not as operations. The weights are zeros that take no memory. @pre `rows` >= 1
[[nodiscard]] double measure_prefill(const llama_layout& layout, device& dev, std::size_t rows, double seconds);

/// Bytes of weights per second that one token's pass reads: layers of which there are as many as fit into `bytes`, one
/// at least, so that they come from memory and not from a cache. Some less than the bandwidth of reading, of which a
/// pass reaches 80% to 98%, the less the faster memory is. The median of passes that take `seconds` together; writing
/// the weights before takes as long, or longer until there are 64 MiB of them.
[[nodiscard]] double measure_decode(const llama_layout& layout, device& dev, std::size_t bytes, double seconds);

} // namespace tropilla
