// Defines the functions of the `lease` handle; the arbiter takes the bytes back.
#include "memory/lease_block.hpp"

namespace tropilla {

std::string_view to_string(purpose p) noexcept {
  switch (p) {
  case purpose::weights:
    return "weights";
  case purpose::ring:
    return "streaming ring";
  case purpose::kv:
    return "KV pages";
  case purpose::activations:
    return "activations";
  case purpose::workspace:
    return "workspace";
  case purpose::staging:
    return "staging";
  case purpose::requests:
    return "requests";
  }
  return "unknown";
}

std::byte* lease::data() const noexcept {
  return block_ ? block_->data : nullptr;
}
std::size_t lease::bytes() const noexcept {
  return block_ ? block_->bytes : 0;
}
purpose lease::used_for() const noexcept {
  return block_ ? block_->used_for : purpose{};
}
std::string_view lease::device() const noexcept {
  return block_ ? std::string_view{*block_->device} : std::string_view();
}

} // namespace tropilla
