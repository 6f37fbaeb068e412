/// Brings rows of an embedding that is not in memory, on a stream of its own. Inside of src/io.
#pragma once

#include "src/io/embedding_rows.hpp"
#include "src/io/weight_loader.hpp"

#include <memory>
#include <vector>

namespace tropilla {

/// Destruction ends with what was asked for.
class row_loader {
public:
  /// `with` outlives it; its staging has room for rows behind the slots.
  explicit row_loader(const weight_loader_setup& with) : with_(with), stream_(with.dev->make_stream("rows")) {}

  /// As `weight_loader::gather`.
  void gather(std::vector<token_id> ids, float* out, weight_loader::done_callback done);

private:
  [[nodiscard]] std::optional<error> read(const std::vector<token_id>& ids, float* out);

  const weight_loader_setup& with_;
  std::unique_ptr<embedding_rows> rows_; ///< of the stream, as the next
  std::vector<float> widened_;           ///< rows on their way to a device
  std::unique_ptr<stream> stream_;       ///< last: its jobs use the above
};

} // namespace tropilla
