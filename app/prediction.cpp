// Finds the slowest of disk, memory and arithmetic, and words the prediction.
#include "app/prediction.hpp"

#include "memory/bytes.hpp"

#include <fmt/format.h>

namespace tropilla::app {
namespace {

/// A pass of `tokens`; empty when it needs something of which the speed is unknown.
std::optional<pass_prediction> slowest(double streamed, double weights, double operations, const machine_speed& speed,
                                       double tokens) {
  const struct {
    limit what;
    double amount, per_second;
  } needs[] = {{limit::disk, streamed, speed.read_bytes},
               {limit::memory, weights, speed.memory_bytes},
               {limit::compute, operations, speed.operations}};
  pass_prediction out;
  double seconds = 0;
  for (const auto& n : needs) {
    if (n.amount <= 0)
      continue;
    if (n.per_second <= 0)
      return std::nullopt;
    if (n.amount / n.per_second > seconds) {
      seconds = n.amount / n.per_second;
      out.binds = n.what;
    }
  }
  if (seconds <= 0)
    return std::nullopt;
  out.tokens_per_second = tokens / seconds;
  return out;
}

double as_double(std::size_t n) {
  return static_cast<double>(n);
}

/// "the disk binds (310.0 MiB per token at 1.6 GB/s)".
std::string reason(limit binds, const step_cost& cost, std::size_t parameters, std::string_view pass,
                   const machine_speed& speed) {
  switch (binds) {
  case limit::disk:
    return fmt::format("the disk binds ({} per {} at {:.1f} GB/s)", format_bytes(cost.streamed_bytes), pass,
                       speed.read_bytes / 1e9);
  case limit::memory:
    return fmt::format("memory binds ({} of weights per {} at {:.1f} GB/s)", format_bytes(cost.weight_bytes), pass,
                       speed.memory_bytes / 1e9);
  case limit::compute:
    break;
  }
  return fmt::format("compute binds ({:.2f} GOP per token at {:.0f} GOP/s)", 2 * as_double(parameters) / 1e9,
                     speed.operations / 1e9);
}

std::string unknown(std::string_view what, const step_cost& cost, const machine_speed& speed) {
  std::string missing;
  const auto add = [&](bool needed, double known, std::string_view name) {
    if (needed && !(known > 0))
      missing += fmt::format("{}{}", missing.empty() ? "" : ", ", name);
  };
  add(cost.streamed_bytes > 0, speed.read_bytes, "reads of the file");
  add(true, speed.memory_bytes, "memory");
  add(true, speed.operations, "arithmetic");
  return fmt::format("{} unknown: {} could not be measured", what, missing);
}

} // namespace

std::string_view to_string(limit l) noexcept {
  switch (l) {
  case limit::disk:
    return "disk";
  case limit::memory:
    return "memory";
  case limit::compute:
    break;
  }
  return "compute";
}

std::string describe_rate(double tokens_per_second) {
  return fmt::format("{:.{}f} tok/s", tokens_per_second, tokens_per_second < 1 ? 2 : tokens_per_second < 10 ? 1 : 0);
}

std::optional<pass_prediction> predict_decode(const step_cost& cost, const machine_speed& speed,
                                              std::size_t sequences) {
  const double weights = as_double(cost.weight_bytes);
  const double operations = 2 * as_double(cost.decode_parameters) * as_double(sequences);
  auto decode = slowest(as_double(cost.streamed_bytes), weights, operations, speed, as_double(sequences));
  // The speed of memory was measured with a token's arithmetic beside it. Where that alone takes most of the time
  // (plain C++ does), it isn't memory that is slow.
  if (decode && decode->binds == limit::memory && 2 * operations / speed.operations > weights / speed.memory_bytes)
    decode->binds = limit::compute;
  return decode;
}

prediction predict(const step_cost& cost, const machine_speed& speed) {
  const double rows = as_double(cost.max_batch_tokens);
  return {predict_decode(cost, speed, 1), slowest(as_double(cost.streamed_bytes), as_double(cost.weight_bytes),
                                                  2 * as_double(cost.layer_parameters) * rows, speed, rows)};
}

std::string describe(const prediction& p, const step_cost& cost, const machine_speed& speed) {
  const std::string prompt = fmt::format("prefill of {}", cost.max_batch_tokens);
  std::string decode, prefill;
  if (p.decode) {
    decode = fmt::format("decode {}: {}", describe_rate(p.decode->tokens_per_second),
                         reason(p.decode->binds, cost, cost.decode_parameters, "token", speed));
    if (p.decode->binds == limit::disk)
      decode += "; more tokens per pass\n           (batches) or fewer bytes (a larger budget, smaller types) raise it";
  } else {
    decode = unknown("decode", cost, speed);
  }
  if (p.prefill)
    prefill = fmt::format("{}: {}: {}", prompt, describe_rate(p.prefill->tokens_per_second),
                          reason(p.prefill->binds, cost, cost.layer_parameters, "pass", speed));
  else
    prefill = unknown(prompt, cost, speed);
  return fmt::format("predicted  {}\n           {}\n", decode, prefill);
}

} // namespace tropilla::app
