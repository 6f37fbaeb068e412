// The rotary embedding, the KV cache and attention: against float64, and bit for bit between variants, workers and
// steps; for every type of keys and values.
#include "tests/unit/kernels/device_fixture.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <limits>

using namespace tropilla;
using namespace tropilla::host;
using namespace tropilla::host::testing;

namespace {

constexpr kv_type types[] = {kv_type::f16, kv_type::bf16, kv_type::q8_0};

/// A layer's shape with random queries, keys and values of one sequence, and its cache.
struct sequence_case {
  attention_shape shape;
  kv_type type;
  std::size_t dims;
  std::size_t tokens;
  std::size_t stride;
  std::vector<float> q, k, v; ///< [tokens, stride], before rotation
  std::vector<float> cosines, sines;

  sequence_case(kv_type t, const attention_shape& s, std::size_t rotated, std::size_t count, std::uint32_t seed = 1)
      : shape(s), type(t), dims(rotated), tokens(count),
        stride(std::max(s.heads * s.key_size, s.kv_heads * std::max(s.key_size, s.value_size)) + 3),
        q(random_floats(count * stride, seed, 2)), k(random_floats(count * stride, seed + 1)),
        v(random_floats(count * stride, seed + 2)) {
    for (std::size_t p = 0; p < count; ++p)
      for (std::size_t i = 0; i < dims / 2; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
  }
  [[nodiscard]] rope_table rope() const { return {cosines.data(), sines.data(), tokens, dims}; }
};

/// A paged cache of two layers, of which the second is used.
class cache {
public:
  explicit cache(const sequence_case& c)
      : shape_(c.shape), type_(c.type),
        layer_bytes_(kv_layer_bytes(c.type, c.shape.kv_heads, c.shape.key_size, c.shape.value_size)) {
    const std::size_t pages = kv_pages_for(c.tokens);
    memory_.reserve(pages);
    for (std::size_t i = 0; i < pages; ++i)
      pages_.push_back(memory_.emplace_back(2 * layer_bytes_).data());
    std::rotate(pages_.begin(), pages_.begin() + pages_.size() / 2, pages_.end()); // not in order of address
  }
  [[nodiscard]] std::byte* const* pages() const { return pages_.data(); }
  [[nodiscard]] kv_layer layer() const { return {layer_bytes_, type_}; }

  /// A number as it was stored, and what a step between numbers of its block is (q8_0).
  struct entry {
    double value;
    double step;
  };
  [[nodiscard]] entry key(std::size_t token, std::size_t head, std::size_t d) const {
    const std::size_t size = shape_.key_size;
    return entry_at(token, head * size * element_bytes() * 32 + scales_before(head * kv_blocks(size)), size,
                    d * 32 + token % 32, d / 32 * 32 + token % 32);
  }
  [[nodiscard]] entry value(std::size_t token, std::size_t head, std::size_t d) const {
    const std::size_t size = shape_.value_size;
    const std::size_t keys = shape_.kv_heads * shape_.key_size,
                      key_blocks = shape_.kv_heads * kv_blocks(shape_.key_size);
    return entry_at(token,
                    (keys + head * size) * element_bytes() * 32 + scales_before(key_blocks + head * kv_blocks(size)),
                    size, token % 32 * size + d, token % 32 * kv_blocks(size) + d / 32);
  }

private:
  [[nodiscard]] std::size_t element_bytes() const { return type_ == kv_type::q8_0 ? 1 : 2; }
  [[nodiscard]] std::size_t scales_before(std::size_t blocks) const { return type_ == kv_type::q8_0 ? blocks * 64 : 0; }
  [[nodiscard]] entry entry_at(std::size_t token, std::size_t offset, std::size_t size, std::size_t index,
                               std::size_t scale) const {
    const std::byte* const head = pages_[token / 32] + layer_bytes_ + offset;
    std::uint16_t bits = 0;
    if (type_ != kv_type::q8_0) {
      std::memcpy(&bits, head + 2 * index, 2);
      return {static_cast<double>(type_ == kv_type::f16 ? half_to_float(bits) : bf16_to_float(bits)), 0};
    }
    std::memcpy(&bits, head + size * 32 + 2 * scale, 2);
    const double step = half_to_float(bits);
    return {static_cast<double>(std::to_integer<signed char>(head[index])) * step, step};
  }

  attention_shape shape_;
  kv_type type_;
  std::size_t layer_bytes_;
  std::vector<aligned_bytes> memory_;
  std::vector<std::byte*> pages_;
};

/// Runs the sequence in steps of the given sizes and gives the attention of every row, `[tokens, heads * value_size]`.
std::vector<float> run_in_steps(const sequence_case& c, const cache& kv, const kernel_set& kernels, std::size_t workers,
                                const std::vector<std::size_t>& steps) {
  auto q = c.q;
  std::vector<float> out(c.tokens * c.shape.heads * c.shape.value_size, std::numeric_limits<float>::quiet_NaN());
  with_ops(kernels, workers, false, [&](ops& o) {
    std::size_t at = 0;
    for (const std::size_t rows : steps) {
      const sequence_rows s{0, rows, at, kv.pages()};
      o.rope_and_append(q.data() + at * c.stride, c.k.data() + at * c.stride, c.v.data() + at * c.stride, c.stride,
                        c.shape, c.rope(), kv.layer(), {&s, 1});
      o.attention(q.data() + at * c.stride, c.stride, c.shape, kv.layer(), {&s, 1},
                  out.data() + at * c.shape.heads * c.shape.value_size);
      at += rows;
    }
  });
  return out;
}

std::vector<float> run_in_steps(const sequence_case& c, const kernel_set& kernels, std::size_t workers,
                                const std::vector<std::size_t>& steps) {
  return run_in_steps(c, cache(c), kernels, workers, steps);
}

double rotated(const sequence_case& c, const float* head, std::size_t position, std::size_t d) {
  if (d >= c.dims)
    return head[d];
  const double angle = static_cast<double>(position) *
                       std::pow(10000.0, -2.0 * static_cast<double>(d - d % 2) / 2.0 / static_cast<double>(c.dims));
  const double x = head[d / 2 * 2], y = head[d / 2 * 2 + 1];
  return d % 2 == 0 ? x * std::cos(angle) - y * std::sin(angle) : x * std::sin(angle) + y * std::cos(angle);
}

/// Attention in float64 over the keys and values that are in the cache.
std::vector<double> reference(const sequence_case& c, const cache& kv) {
  const auto& s = c.shape;
  std::vector<double> out(c.tokens * s.heads * s.value_size);
  std::vector<double> keys, values;
  for (std::size_t t = 0; t < c.tokens; ++t)
    for (std::size_t h = 0; h < s.kv_heads; ++h) {
      for (std::size_t d = 0; d < s.key_size; ++d)
        keys.push_back(kv.key(t, h, d).value);
      for (std::size_t d = 0; d < s.value_size; ++d)
        values.push_back(kv.value(t, h, d).value);
    }
  for (std::size_t t = 0; t < c.tokens; ++t)
    for (std::size_t h = 0; h < s.heads; ++h) {
      const std::size_t head = h * s.kv_heads / s.heads; // several heads share one of keys
      std::vector<double> query(s.key_size), score(t + 1);
      for (std::size_t d = 0; d < s.key_size; ++d)
        query[d] = rotated(c, c.q.data() + t * c.stride + h * s.key_size, t, d);
      double sum = 0;
      for (std::size_t j = 0; j <= t; ++j) {
        for (std::size_t d = 0; d < s.key_size; ++d)
          score[j] += query[d] * keys[(j * s.kv_heads + head) * s.key_size + d];
        score[j] *= static_cast<double>(s.scale);
      }
      const double top = *std::max_element(score.begin(), score.end());
      for (auto& x : score)
        sum += x = std::exp(x - top);
      for (std::size_t j = 0; j <= t; ++j)
        for (std::size_t d = 0; d < s.value_size; ++d)
          out[(t * s.heads + h) * s.value_size + d] +=
              score[j] / sum * values[(j * s.kv_heads + head) * s.value_size + d];
    }
  return out;
}

double worst_difference(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    worst = difference <= worst ? worst : std::isnan(difference) ? 1 : difference;
  }
  return worst;
}

const attention_shape shapes[] = {
    {9, 3, 64, 64, 0.125F}, // SmolLM2
    {8, 2, 64, 64, 0.125F}, // Llama 3.2 1B, a quarter
    {4, 4, 10, 6, 0.3F},    // no grouping, small odd sizes
    {14, 1, 34, 50, 0.17F}, // one head of keys, more queries than a tile
    {2, 2, 2, 128, 0.7F},   {3, 1, 128, 32, 0.09F},
    {6, 2, 80, 48, 0.1F}, // blocks of q8_0 that are cut off in the middle
};

/// How far a number may be from what was stored for it.
double allowed(kv_type type, const cache::entry& stored) {
  switch (type) {
  case kv_type::f16:
    return 1e-6 + std::abs(stored.value) * 0x1p-11;
  case kv_type::bf16:
    return 1e-6 + std::abs(stored.value) * 0x1p-8;
  case kv_type::q8_0:
    break;
  }
  return 1e-6 + stored.step * 0.501;
}

} // namespace

TEST_CASE("rotation and appending: keys transposed by page, values by token, within half a step of their type") {
  for (const auto type : types)
    for (const attention_shape& shape : {attention_shape{4, 2, 10, 6, 1}, {4, 2, 34, 80, 1}}) {
      const sequence_case c(type, shape, 8, 70);
      for (const auto& v : variants())
        for (const std::size_t workers : {1, 2, 3}) {
          const cache kv(c);
          auto q = c.q;
          with_ops(v.kernels, workers, false, [&](ops& o) {
            const sequence_rows s{0, c.tokens, 0, kv.pages()};
            o.rope_and_append(q.data(), c.k.data(), c.v.data(), c.stride, c.shape, c.rope(), kv.layer(), {&s, 1});
          });
          const std::size_t key_size = shape.key_size, value_size = shape.value_size;
          double worst_q = 0;
          std::size_t wrong_k = 0, wrong_v = 0, touched = 0;
          for (std::size_t t = 0; t < c.tokens; ++t) {
            for (std::size_t h = 0; h < 4; ++h)
              for (std::size_t d = 0; d < key_size; ++d)
                worst_q = std::max(worst_q, std::abs(static_cast<double>(q[t * c.stride + h * key_size + d]) -
                                                     rotated(c, c.q.data() + t * c.stride + h * key_size, t, d)));
            for (std::size_t i = 4 * key_size; i < c.stride; ++i)
              touched += q[t * c.stride + i] != c.q[t * c.stride + i];
            for (std::size_t h = 0; h < 2; ++h) {
              for (std::size_t d = 0; d < key_size; ++d) {
                const auto key = kv.key(t, h, d);
                const double wanted = rotated(c, c.k.data() + t * c.stride + h * key_size, t, d);
                wrong_k += !(std::abs(key.value - wanted) <= allowed(type, key));
              }
              for (std::size_t d = 0; d < value_size; ++d) {
                const auto value = kv.value(t, h, d);
                const double wanted = c.v[t * c.stride + h * value_size + d];
                wrong_v += !(std::abs(value.value - wanted) <= allowed(type, value));
              }
            }
          }
          INFO(v.name << ", " << to_string(type) << ", heads of " << key_size << ", " << workers << " workers");
          CHECK(worst_q < 1e-5);
          CHECK(wrong_k == 0);
          CHECK(wrong_v == 0);
          CHECK(touched == 0);
        }
    }
}

TEST_CASE("numbers of any kind are stored as numbers, the same ones by every variant") {
  std::vector<float> in = random_floats(161, 5);
  for (std::size_t i = 0; i < 32; ++i) {
    in[i] = 0;
    in[32 + i] *= 1e-7F; // less than the smallest scale
    in[64 + i] *= 1e30F; // more than the largest
    in[96 + i] *= 3e-6F; // a scale of few bits
  }
  in[130] = std::numeric_limits<float>::infinity();
  in[140] = std::numeric_limits<float>::quiet_NaN();
  in[150] = -std::numeric_limits<float>::max();
  std::vector<std::int8_t> first_bytes;
  std::vector<std::uint16_t> first_scales, first_wide;
  for (const auto& v : variants()) {
    std::vector<std::int8_t> bytes(in.size());
    std::vector<std::uint16_t> scales(kv_blocks(in.size()));
    std::vector<bf16> wide(in.size());
    v.kernels.rows->to_q8(in.data(), bytes.data(), scales.data(), in.size());
    std::vector<float> finite = in; // what bfloat16 is asked to hold
    finite[140] = 0;
    v.kernels.rows->to_bf16(finite.data(), wide.data(), finite.size());
    std::vector<std::uint16_t> bits;
    for (const bf16 x : wide)
      bits.push_back(static_cast<std::uint16_t>(x));
    INFO(v.name);
    for (const auto scale : scales)
      CHECK(std::isfinite(half_to_float(scale)));
    for (const auto b : bits)
      CHECK(std::isfinite(bf16_to_float(b)));
    CHECK(std::count(bytes.begin(), bytes.end(), -128) == 0);
    CHECK(std::count(bytes.begin(), bytes.begin() + 32, 0) == 32);
    if (first_bytes.empty()) {
      first_bytes = bytes;
      first_scales = scales;
      first_wide = bits;
    }
    CHECK(bytes == first_bytes);
    CHECK(scales == first_scales);
    CHECK(bits == first_wide);
  }
}

TEST_CASE("attention agrees with softmax(q k / sqrt(d)) v in float64") {
  for (const auto type : types)
    for (const auto& shape : shapes)
      for (const std::size_t tokens : {1, 2, 33, 150}) {
        const sequence_case c(type, shape, shape.key_size / 4 * 4 == 0 ? 2 : shape.key_size / 4 * 4, tokens);
        for (const auto& v : variants()) {
          const cache kv(c);
          const auto out = run_in_steps(c, kv, v.kernels, 2, {tokens});
          INFO(v.name << ", " << to_string(type) << ", " << shape.heads << " heads, " << tokens << " tokens");
          CHECK(worst_difference(out, reference(c, kv)) < 5e-5);
        }
      }
}

TEST_CASE("attention has the same bits whatever the variant, the workers and the steps") {
  const std::size_t tokens = 330; // three chunks
  const auto type = GENERATE(from_range(std::begin(types), std::end(types)));
  for (const auto& shape : shapes) {
    const sequence_case c(type, shape, shape.key_size, tokens);
    std::vector<std::vector<std::size_t>> steps{{tokens}, {1, 2, 3, 61, 63, 150, 49, 1}, {256, 71, 1, 1, 1}};
    const auto all = variants();
    const cache kv(c);
    const auto expected = run_in_steps(c, kv, all.back().kernels, 1, steps.front());
    CHECK(worst_difference(expected, reference(c, kv)) < 5e-5);
    for (const auto& v : all)
      for (const std::size_t workers : worker_counts)
        for (const auto& s : steps) {
          if (v.name == "scalar" && (workers != 2 || s.size() == 1))
            continue; // its multiply-add is a function call: one run is enough
          if (v.name == "avx512 (emulated)" && workers != 5)
            continue; // its instructions are, too
          INFO(v.name << ", " << to_string(type) << ", " << workers << " workers, " << s.size() << " steps, "
                      << shape.heads << " heads");
          REQUIRE(same_bits(run_in_steps(c, v.kernels, workers, s), expected));
        }
  }
}

TEST_CASE("a long context of one row is divided between the workers, in more waves than one") {
  const auto type = GENERATE(from_range(std::begin(types), std::end(types)));
  const attention_shape shape{10, 1, 4, 512, 0.5F}; // large heads: few chunks fit the scratch at once
  const sequence_case c(type, shape, 4, 1100);
  const auto all = variants();
  const auto& kernels = all.back().name == "scalar" ? all.back().kernels : all[1].kernels;
  const auto expected = run_in_steps(c, kernels, 1, {1099, 1});
  for (const std::size_t workers : {2, 3})
    CHECK(same_bits(run_in_steps(c, kernels, workers, {1099, 1}), expected));
}

TEST_CASE("sequences of one step do not disturb each other") {
  const auto type = GENERATE(from_range(std::begin(types), std::end(types)));
  const attention_shape shape{6, 3, 32, 32, 0.18F};
  const sequence_case a(type, shape, 32, 200, 11), b(type, shape, 32, 45, 22), d(type, shape, 32, 1, 33);
  for (const auto& v : variants()) {
    const auto alone_a = run_in_steps(a, v.kernels, 1, {199, 1});
    const auto alone_b = run_in_steps(b, v.kernels, 1, {45});
    const auto alone_d = run_in_steps(d, v.kernels, 1, {1});
    for (const std::size_t workers : {1, 2, 3}) {
      const cache cache_a(a), cache_b(b), cache_d(d);
      const std::size_t width = shape.heads * shape.value_size;
      // First a's 199 tokens, then one step: a's last token, all of b, all of d.
      std::vector<float> q(47 * a.stride), k(q.size()), val(q.size()), out(47 * width), first(199 * width);
      const auto place = [&](const sequence_case& c, std::size_t from, std::size_t rows, std::size_t at) {
        std::copy_n(c.q.begin() + static_cast<std::ptrdiff_t>(from * c.stride), rows * c.stride,
                    q.begin() + static_cast<std::ptrdiff_t>(at * c.stride));
        std::copy_n(c.k.begin() + static_cast<std::ptrdiff_t>(from * c.stride), rows * c.stride,
                    k.begin() + static_cast<std::ptrdiff_t>(at * c.stride));
        std::copy_n(c.v.begin() + static_cast<std::ptrdiff_t>(from * c.stride), rows * c.stride,
                    val.begin() + static_cast<std::ptrdiff_t>(at * c.stride));
      };
      place(a, 199, 1, 0);
      place(b, 0, 45, 1);
      place(d, 0, 1, 46);
      auto q_a = a.q;
      with_ops(v.kernels, workers, false, [&](ops& o) {
        const sequence_rows begin{0, 199, 0, cache_a.pages()};
        o.rope_and_append(q_a.data(), a.k.data(), a.v.data(), a.stride, shape, a.rope(), cache_a.layer(), {&begin, 1});
        const sequence_rows step[] = {
            {0, 1, 199, cache_a.pages()}, {1, 45, 0, cache_b.pages()}, {46, 1, 0, cache_d.pages()}};
        o.rope_and_append(q.data(), k.data(), val.data(), a.stride, shape, a.rope(), cache_a.layer(), step);
        o.attention(q.data(), a.stride, shape, cache_a.layer(), step, out.data());
      });
      INFO(v.name << ", " << workers << " workers");
      CHECK(std::memcmp(out.data(), alone_a.data() + 199 * width, width * sizeof(float)) == 0);
      CHECK(std::memcmp(out.data() + width, alone_b.data(), 45 * width * sizeof(float)) == 0);
      CHECK(std::memcmp(out.data() + 46 * width, alone_d.data(), width * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("scores of any size leave finite attention") {
  const auto type = GENERATE(from_range(std::begin(types), std::end(types)));
  const attention_shape shape{2, 1, 16, 16, 1.0F};
  sequence_case c(type, shape, 16, 300);
  for (std::size_t i = 0; i < c.k.size(); ++i) {
    c.k[i] *= 1e5F; // beyond what a half holds
    c.q[i] *= 1e3F;
  }
  for (const auto& v : variants())
    for (const float x : run_in_steps(c, v.kernels, 2, {299, 1}))
      REQUIRE(std::isfinite(x));
}
