// Names of the KV cache's types.
#include "kernels/kv_cache.hpp"

namespace tropilla {

std::string_view to_string(kv_type type) noexcept {
  switch (type) {
  case kv_type::bf16:
    return "bf16";
  case kv_type::q8_0:
    return "q8_0";
  case kv_type::f16:
    break;
  }
  return "f16";
}

std::optional<kv_type> kv_type_from_name(std::string_view name) noexcept {
  for (const auto type : {kv_type::f16, kv_type::bf16, kv_type::q8_0})
    if (name == to_string(type))
      return type;
  return std::nullopt;
}

} // namespace tropilla
