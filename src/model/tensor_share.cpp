// Rounds shares to what activations and packed matrices are made of.
#include "src/model/tensor_share.hpp"

#include "kernels/activation_format.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <numeric>

namespace tropilla {
namespace {

/// Divides `count` things in proportion to weights, a whole number of units to each rank.
std::vector<std::size_t> bounds_of(std::size_t count, std::size_t unit, std::span<const double> weights,
                                   const char* what) {
  const std::size_t units = divide_up(count, unit);
  if (units < weights.size())
    throw error(errc::invalid_argument, fmt::format("{} devices can't share {} {}, which are divided by {}",
                                                    weights.size(), count, what, unit));
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::size_t> bounds{0};
  double so_far = 0;
  for (std::size_t r = 0; r < weights.size(); ++r) {
    so_far += weights[r];
    const std::size_t after = weights.size() - 1 - r, at = bounds.back() / unit;
    const auto wanted = static_cast<std::size_t>(static_cast<double>(units) * so_far / all + 0.5);
    bounds.push_back(after == 0 ? count : std::clamp(wanted, at + 1, units - after) * unit);
  }
  return bounds;
}

/// Values that the query heads of one KV head put out.
std::size_t values_of_kv_head(const attention_shape& a) {
  return a.heads / a.kv_heads * a.value_size;
}

std::vector<std::size_t> times(std::vector<std::size_t> bounds, std::size_t factor) {
  for (auto& b : bounds)
    b *= factor;
  return bounds;
}

} // namespace

tensor_share tensor_share::whole(const llama_config& model) {
  const auto& a = model.attention;
  return {0,
          {0, a.kv_heads},
          {0, a.kv_heads * values_of_kv_head(a)},
          {0, model.ffn_width},
          {0, model.width},
          {0, model.vocabulary}};
}

tensor_share tensor_share::divide(const llama_config& model, std::span<const double> weights, std::size_t rank) {
  const std::size_t values = values_of_kv_head(model.attention);
  auto heads = bounds_of(model.attention.kv_heads, activation_padding / std::gcd(values, activation_padding), weights,
                         "KV heads");
  auto attn_values = times(heads, values);
  return {rank,
          std::move(heads),
          std::move(attn_values),
          bounds_of(model.ffn_width, activation_padding, weights, "values between gate and down"),
          bounds_of(model.width, panel_rows, weights, "values of a token"),
          bounds_of(model.vocabulary, panel_rows, weights, "tokens of the vocabulary")};
}

attention_shape attention_of(const llama_config& model, const tensor_share& share) {
  attention_shape mine = model.attention;
  mine.kv_heads = share.of(share.kv_heads).count;
  mine.heads = mine.kv_heads * (model.attention.heads / model.attention.kv_heads);
  return mine;
}

weight_source rows_of(const weight_source& matrix, share_range range) {
  weight_source out = matrix;
  const std::size_t row = row_bytes(matrix.type, matrix.columns);
  out.rows = range.count;
  out.offset = matrix.offset + range.first * row;
  out.bytes = range.count * row;
  return out;
}

} // namespace tropilla
