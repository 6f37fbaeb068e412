// Counts the planned bytes that requests hold, and leases what these do not cover.
#include "src/schedule/request_room.hpp"

#include "memory/bytes.hpp"
#include "memory/lease.hpp"
#include "src/sampling/token_history.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

constexpr std::size_t of_request = 2048; // its own state, its entries in queues and maps, the allocator's share
constexpr std::size_t of_output = 1024;
constexpr std::size_t of_counted_token = 48; // an entry of a hash table
constexpr std::size_t growth = 2;            // of a list whose final length is unknown

} // namespace

std::size_t request_bytes(std::size_t prompt_tokens, const generation_options& options, std::size_t context) noexcept {
  const auto& s = options.sampling;
  const std::size_t reply = std::min(options.max_tokens, context);
  const std::size_t kept = (prompt_tokens + growth * reply) * sizeof(token_id);
  const std::size_t counted = counts_tokens(s) ? (prompt_tokens + reply) * of_counted_token : 0;
  std::size_t lists = s.bias.size() * sizeof(logit_bias) + s.banned.size() * sizeof(token_id) +
                      options.stop_tokens.size() * sizeof(token_id);
  for (const auto& text : options.stop)
    lists += sizeof(std::string) + text.size();
  return of_request + prompt_tokens * sizeof(token_id) + (options.outputs + 1) * lists +
         options.outputs * (of_output + kept + counted);
}

std::size_t default_request_bytes(std::size_t sequences, std::size_t context) noexcept {
  constexpr std::size_t alone = std::size_t{256} << 10, queue = std::size_t{4} << 20, full = 16;
  // The prompt and a copy of it that grows.
  return (sequences > 1 ? queue : alone) + std::min(sequences, full) * context * 2 * growth * sizeof(token_id);
}

struct request_room::holding {
  std::shared_ptr<request_room> room;
  std::size_t bytes = 0;

  explicit holding(std::shared_ptr<request_room> of) : room(std::move(of)) {}
  holding(const holding&) = delete;
  holding& operator=(const holding&) = delete;
  ~holding() { room->give_back(bytes); }
};

std::shared_ptr<const void> request_room::take(std::size_t bytes) {
  auto held = std::make_shared<holding>(shared_from_this()); // before the lock, which its end takes
  const std::lock_guard lock(mutex_);
  if (bytes <= planned_ - used_) {
    used_ += bytes;
    held->bytes = bytes;
    return held;
  }
  if (auto leased = more_ ? more_(bytes) : std::nullopt)
    return std::make_shared<lease>(*std::move(leased));
  throw error(bytes <= planned_ ? errc::busy : errc::over_budget,
              fmt::format("the request may take {} for prompt and replies, and of the {} that are planned for requests "
                          "{} are left; {}",
                          format_bytes(bytes), format_bytes(planned_), format_bytes(planned_ - used_),
                          bytes <= planned_ ? "try again when others have ended"
                                            : "ask for fewer or shorter replies, or give the model a larger budget"));
}

void request_room::give_back(std::size_t bytes) noexcept {
  const std::lock_guard lock(mutex_);
  used_ -= bytes;
}

} // namespace tropilla
