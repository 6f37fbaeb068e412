/// The sink of a request's results. The scheduler calls it; the client reads at its own pace on the other side.
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace tropilla {

/// The client's wish after a piece of its reply.
enum class client_wants : std::uint8_t {
  more,
  nothing,        ///< it has enough: the reply ends as if it were cancelled
  room_for_pieces ///< as much is unread as may be: the reply ends, for it holds others back otherwise
};

/// Gets the results of one request. Called by the scheduler's thread only, in this order: pieces or logits, then
/// exactly one of `finished` and `failed`. Implementations must not block and must not throw.
class reply_sink {
public:
  virtual ~reply_sink() = default;

  [[nodiscard]] virtual client_wants token(piece p) = 0;
  /// Logits `[rows, vocabulary]` of positions `first` onwards of a scored sequence. Valid until the client has told
  /// the scheduler that it is done with them.
  virtual void logits(std::size_t first, std::size_t rows, std::span<const float> values) = 0;
  virtual void finished(const generation_statistics& statistics) = 0;
  virtual void failed(const error& why) = 0;
};

} // namespace tropilla
