// Reads the kinds of a split and their numbers.
#include "src/placement/device_split.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <optional>

namespace tropilla {
namespace {

constexpr std::size_t max_devices = 64;

[[noreturn]] void refuse(std::string_view text) {
  throw error(errc::invalid_argument,
              fmt::format("a split is pipeline=N, tensor=N or both (pipeline=2,tensor=2), each N from 1 to {}, not "
                          "\"{}\"",
                          max_devices, text));
}

std::size_t number_of(std::string_view digits, std::string_view text) {
  std::size_t n = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
  if (problem != std::errc{} || end != digits.data() + digits.size() || n == 0 || n > max_devices)
    refuse(text);
  return n;
}

/// Where a character is first, or the end. (GCC 12 warns of `find` where it sees an empty text.)
std::size_t place_of(char c, std::string_view text) {
  return static_cast<std::size_t>(std::ranges::find(text, c) - text.begin());
}

} // namespace

device_split parse_split(std::string_view text, std::size_t named) {
  std::optional<std::size_t> pipeline, tensor;
  for (std::string_view rest = text; !rest.empty();) {
    const auto end = place_of(',', rest);
    const auto one = rest.substr(0, end);
    const auto sign = place_of('=', one);
    auto& kind = one.substr(0, sign) == "pipeline" ? pipeline : tensor;
    if ((&kind == &tensor && one.substr(0, sign) != "tensor") || sign == one.size() || kind || end + 1 == rest.size())
      refuse(text);
    kind = number_of(one.substr(sign + 1), text);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  device_split out{pipeline.value_or(1), tensor.value_or(1)};
  if (!pipeline && named > 0 && named % out.tensor == 0)
    out.pipeline = named / out.tensor;
  if (named > 0 && named != out.devices())
    throw error(errc::invalid_argument,
                fmt::format("the split {} is between {} devices, and {} are named", text, out.devices(), named));
  if (out.devices() > max_devices)
    throw error(errc::invalid_argument,
                fmt::format("a model can be divided between up to {} devices, not {}", max_devices, out.devices()));
  return out;
}

} // namespace tropilla
