// The forward pass once more, in double precision and plain loops over dequantised weights: what ours is held against.
#pragma once

#include "kernels/tensor_type.hpp"
#include "src/model/llama_config.hpp"

#include <cmath>
#include <fstream>
#include <span>
#include <vector>

namespace tropilla::testing {

class naive_llama {
public:
  explicit naive_llama(const gguf_file& file) : file_(file), config_(llama_config::read(file)) {
    embedding_ = load(config_.token_embedding);
    output_norm_ = load(config_.output_norm);
    head_ = config_.output ? load(*config_.output) : embedding_;
    for (const auto& l : config_.layer_sources)
      layers_.push_back({load(l.attn_norm), load(l.attn_q), load(l.attn_k), load(l.attn_v), load(l.attn_output),
                         load(l.ffn_norm), load(l.ffn_gate), load(l.ffn_up), load(l.ffn_down)});
  }

  /// Logits of every position, [ids, vocabulary].
  [[nodiscard]] std::vector<std::vector<double>> logits(std::span<const std::int32_t> ids) const {
    const auto& c = config_;
    std::vector<std::vector<double>> x;
    for (const auto id : ids) {
      const auto* row = embedding_.data() + static_cast<std::size_t>(id) * c.width;
      x.emplace_back(row, row + c.width);
    }
    for (const auto& l : layers_)
      layer(l, x);
    std::vector<std::vector<double>> out;
    for (const auto& row : x)
      out.push_back(multiply(head_, norm(row, output_norm_), c.vocabulary));
    return out;
  }

private:
  using matrix = std::vector<float>;
  struct layer_matrices {
    matrix attn_norm, q, k, v, attn_output, ffn_norm, gate, up, down;
  };

  [[nodiscard]] matrix load(const weight_source& s) const {
    std::ifstream in(file_.files[s.file], std::ios::binary);
    std::vector<std::byte> bytes(s.bytes);
    in.seekg(static_cast<std::streamoff>(s.offset));
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    matrix out(s.rows * s.columns);
    dequantise(s.type, bytes, out);
    return out;
  }

  [[nodiscard]] std::vector<double> norm(const std::vector<double>& x, const matrix& weight) const {
    double squares = 0;
    for (const double v : x)
      squares += v * v;
    const double scale =
        1 / std::sqrt(squares / static_cast<double>(x.size()) + static_cast<double>(config_.norm_epsilon));
    std::vector<double> out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      out[i] = x[i] * scale * static_cast<double>(weight[i]);
    return out;
  }

  [[nodiscard]] static std::vector<double> multiply(const matrix& w, const std::vector<double>& x, std::size_t rows) {
    std::vector<double> out(rows);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < x.size(); ++i)
        out[r] += static_cast<double>(w[r * x.size() + i]) * x[i];
    return out;
  }

  void rotate(std::vector<double>& heads, std::size_t size, std::size_t position) const {
    const auto& rope = config_.rope;
    for (std::size_t base = 0; base < heads.size(); base += size)
      for (std::size_t i = 0; i < rope.dims / 2; ++i) {
        double angle = static_cast<double>(position) *
                       std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rope.dims));
        angle /= rope.linear_scale;
        if (!rope.factors.empty())
          angle /= static_cast<double>(rope.factors[i]);
        double& a = heads[base + 2 * i];
        double& b = heads[base + 2 * i + 1];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = rotated;
      }
  }

  void layer(const layer_matrices& l, std::vector<std::vector<double>>& x) const {
    const auto& a = config_.attention;
    std::vector<std::vector<double>> keys, values;
    for (std::size_t p = 0; p < x.size(); ++p) {
      const auto n = norm(x[p], l.attn_norm);
      auto q = multiply(l.q, n, a.heads * a.key_size);
      auto k = multiply(l.k, n, a.kv_heads * a.key_size);
      rotate(q, a.key_size, p);
      rotate(k, a.key_size, p);
      keys.push_back(std::move(k));
      values.push_back(multiply(l.v, n, a.kv_heads * a.value_size));
      add(x[p], multiply(l.attn_output, attend(q, keys, values), config_.width));
    }
    for (auto& row : x) {
      const auto n = norm(row, l.ffn_norm);
      auto gate = multiply(l.gate, n, config_.ffn_width);
      const auto up = multiply(l.up, n, config_.ffn_width);
      for (std::size_t i = 0; i < gate.size(); ++i)
        gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      add(row, multiply(l.down, gate, config_.width));
    }
  }

  [[nodiscard]] std::vector<double> attend(const std::vector<double>& q, const std::vector<std::vector<double>>& keys,
                                           const std::vector<std::vector<double>>& values) const {
    const auto& a = config_.attention;
    std::vector<double> out(a.heads * a.value_size);
    for (std::size_t h = 0; h < a.heads; ++h) {
      const std::size_t kv = h / (a.heads / a.kv_heads);
      std::vector<double> weights;
      double sum = 0;
      for (const auto& k : keys) {
        double dot = 0;
        for (std::size_t i = 0; i < a.key_size; ++i)
          dot += q[h * a.key_size + i] * k[kv * a.key_size + i];
        weights.push_back(std::exp(dot * static_cast<double>(a.scale)));
        sum += weights.back();
      }
      for (std::size_t p = 0; p < keys.size(); ++p)
        for (std::size_t i = 0; i < a.value_size; ++i)
          out[h * a.value_size + i] += weights[p] / sum * values[p][kv * a.value_size + i];
    }
    return out;
  }

  static void add(std::vector<double>& x, const std::vector<double>& y) {
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] += y[i];
  }

  const gguf_file& file_;
  llama_config config_;
  matrix embedding_, output_norm_, head_;
  std::vector<layer_matrices> layers_;
};

} // namespace tropilla::testing
