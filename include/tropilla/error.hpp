/// `tropilla::error`, the library's one exception type: a code that programs branch on and a sentence for people.
#pragma once

#include "tropilla/export.hpp"

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tropilla {

/// The kind of failure. Programs branch on this; people read `error::what()`.
enum class errc : std::uint8_t {
  invalid_argument = 1, ///< an option or parameter is out of its range
  io_error,             ///< the operating system refused a read, write, open or thread
  malformed_file,       ///< a model, vocabulary or configuration file contradicts its format
  unsupported,          ///< well-formed, but not something tropilla runs
  over_budget,          ///< does not fit the byte budget; the sentence names the missing bytes
  context_full,         ///< the prompt or the reply does not fit the context
  cancelled,            ///< the caller gave up, or reads too slowly
  timed_out,            ///< a deadline passed
  device_failed,        ///< a device or an actor died and could not be restarted
  internal,             ///< a bug in tropilla
  busy,                 ///< the queue is full; the same request may succeed later
  client_failed,        ///< a callback of the client threw; the sentence has what it said
};

/// The option that a caller may change so that the same call works. The sentence of an `error` says it in the library's
/// words; a program that calls it something else (an option of its command line) adds its own.
enum class remedy : std::uint8_t {
  none,
  context,       ///< `runtime_config::context`
  kv_tokens,     ///< `runtime_config::kv_tokens`
  kv_type,       ///< `runtime_config::kv_type`
  precise,       ///< `runtime_config::precise`
  chat_template, ///< `runtime_config::chat_template`, or a raw prompt (`runtime::generate`)
};

/// The name of a code, as printed in JSON: "malformed_file".
[[nodiscard]] TROPILLA_API std::string_view to_string(errc code) noexcept;

/// Thrown while opening, parsing and planning; steps report it through their result instead.
/// The message is one sentence: what was expected, what was found, where, and what to do.
class TROPILLA_API error : public std::runtime_error {
public:
  error(errc code, const std::string& message, remedy change = remedy::none)
      : std::runtime_error(message), code_(code), change_(change) {}

  [[nodiscard]] errc code() const noexcept { return code_; }
  [[nodiscard]] remedy change() const noexcept { return change_; }

private:
  errc code_;
  remedy change_;
};

} // namespace tropilla
