/// Looks up rows of an embedding that is not in memory, on a stream of its own. Inside of src/io.
#pragma once

#include "src/io/embedding_lookup.hpp"
#include "src/io/weight_loader.hpp"

#include <memory>
#include <vector>

namespace tropilla {

/// Looks up rows asynchronously. Destruction waits until what was asked for has ended.
class embedding_loader {
public:
  /// `setup` outlives it; it has room for rows behind the read buffers.
  explicit embedding_loader(const weight_loader_setup& setup)
      : setup_(setup), stream_(setup.dev->make_stream("rows")) {}

  /// As `weight_loader::look_up`.
  void look_up(std::vector<token_id> ids, float* out, weight_loader::done_callback done);

private:
  [[nodiscard]] std::optional<error> read(const std::vector<token_id>& ids, float* out);

  const weight_loader_setup& setup_;
  std::unique_ptr<embedding_lookup> rows_; ///< of the stream, as the next
  std::vector<float> widened_;             ///< rows on their way to a device
  std::unique_ptr<stream> stream_;         ///< last: its jobs use the above
};

} // namespace tropilla
