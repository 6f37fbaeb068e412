// Defines `tropilla::error`. It is in the lowest library because every layer throws it.
#include "tropilla/error.hpp"

namespace tropilla {

std::string_view to_string(errc code) noexcept {
  switch (code) {
  case errc::invalid_argument:
    return "invalid_argument";
  case errc::io_error:
    return "io_error";
  case errc::malformed_file:
    return "malformed_file";
  case errc::unsupported:
    return "unsupported";
  case errc::over_budget:
    return "over_budget";
  case errc::context_full:
    return "context_full";
  case errc::cancelled:
    return "cancelled";
  case errc::timed_out:
    return "timed_out";
  case errc::device_failed:
    return "device_failed";
  case errc::internal:
    return "internal";
  case errc::busy:
    return "busy";
  case errc::client_failed:
    return "client_failed";
  }
  return "internal";
}

} // namespace tropilla
