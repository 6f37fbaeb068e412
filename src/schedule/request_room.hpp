/// Bounds what requests may hold of the processor's memory: prompts, tokens, page tables, the state of replies.
#pragma once

#include "memory/lease.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

namespace tropilla {

/// Bytes that a request holds from when it is accepted until it ends, at most, the client's part left out.
[[nodiscard]] std::size_t request_bytes(std::size_t prompt_tokens, const generation_options& options,
                                        std::size_t context) noexcept;

/// Bytes that a runtime plans by default: sixteen sequences may be as long as the context, and others wait.
[[nodiscard]] std::size_t default_request_bytes(std::size_t sequences, std::size_t context) noexcept;

/// Shares the planned bytes out to requests, and leases more where they are not enough. Any thread.
class request_room : public std::enable_shared_from_this<request_room> {
public:
  /// Bytes beyond what is planned; empty: the budget has none.
  using more_source = std::function<std::optional<lease>(std::size_t bytes)>;

  request_room(std::size_t planned, more_source more) : planned_(planned), more_(std::move(more)) {}

  /// Takes bytes, which are the caller's until the last copy of the result goes. Throws `error`: busy when others hold
  /// them, over_budget when there never are so many.
  [[nodiscard]] std::shared_ptr<const void> take(std::size_t bytes);

private:
  struct holding;
  void give_back(std::size_t bytes) noexcept;

  std::size_t planned_;
  more_source more_;
  std::mutex mutex_;
  std::size_t used_ = 0; ///< of what is planned
};

} // namespace tropilla
