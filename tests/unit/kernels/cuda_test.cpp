// The CUDA kernels beside the host's scalar ones: same formulas, other orders of summing. Part of two programs:
// emulated on the processor (cuda_emulated.cpp), and on a GPU (tests/gpu/kernels_on_gpu.cpp).
#include "kernels/cuda/attention_metadata.hpp"
#include "kernels/kv_cache.hpp"
#include "memory/rounding.hpp"
#include "tests/support/difference.hpp"
#include "tests/support/kernels_under_test.hpp"
#include "tests/unit/kernels/matrix_fixture.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace tropilla;
using namespace tropilla::host;
using namespace tropilla::host::testing;
using tropilla::testing::difference;
using tropilla::testing::under_test;

namespace {

namespace call = cuda::call;

void compute(const cuda::kernel_call& c) {
  under_test().compute(c);
}

/// Multiplies with as many targets in each call as it takes.
void multiply(const activation_view& x, std::size_t rows, std::span<const linear_target> targets,
              std::byte* rounded = nullptr) {
  while (!targets.empty()) {
    call::linear c{x, rows, {}, std::min(targets.size(), call::linear::max_targets), rounded};
    std::copy_n(targets.begin(), c.count, c.targets.begin());
    compute(c);
    targets = targets.subspan(c.count);
  }
}

void multiply(const activation_view& x, std::size_t rows, const linear_target& target) {
  compute(call::linear{x, rows, {target}, 1, nullptr});
}

constexpr float untouched = std::numeric_limits<float>::quiet_NaN();

/// Rows of an activation of one kind.
struct stored_rows {
  aligned_bytes memory;
  activation stored;

  stored_rows(activation_kind kind, std::size_t rows, std::size_t width)
      : memory(activation_buffer_bytes(kind, rows, width)), stored{memory.data(), kind, rows, width} {}
  [[nodiscard]] activation_view view() const { return view_of(stored, false); }
};

/// How far two activations are apart: most steps of int8, and the relative difference of everything else.
void check_same(const stored_rows& a, const stored_rows& b) {
  const auto va = a.view(), vb = b.view();
  if (vb.quantised.q != nullptr) {
    const std::size_t values = b.stored.rows * vb.int8_rows * vb.quantised.padded;
    std::size_t other = 0;
    int most = 0;
    for (std::size_t i = 0; i < values; ++i) {
      const int apart = std::abs(va.quantised.q[i] - vb.quantised.q[i]);
      most = std::max(most, apart);
      other += apart != 0 ? 1 : 0;
    }
    CHECK(most <= (vb.int8_rows == 1 ? 1 : 127)); // what is left of a number that was rounded otherwise is another one
    CHECK(static_cast<double>(other) <= 0.02 * static_cast<double>(values) + 2);
    const auto as_floats = [](const float* p, std::size_t n) { return std::span(p, n); };
    CHECK(difference(as_floats(va.quantised.scale, values / 32), as_floats(vb.quantised.scale, values / 32)) < 1e-4);
    for (std::size_t i = 0; i < values / 32; ++i) { // sums belong to the numbers that are stored
      int low = 0, high = 0;
      for (std::size_t k = 0; k < 16; ++k) {
        low += va.quantised.q[32 * i + k];
        high += va.quantised.q[32 * i + 16 + k];
      }
      const float scale = va.quantised.scale[i];
      const bool right = va.quantised.minus16[2 * i] == -low && va.quantised.minus16[2 * i + 1] == -high &&
                         va.quantised.minus32[i] == -low - high &&
                         va.quantised.sum16[2 * i] == scale * static_cast<float>(low) &&
                         va.quantised.sum16[2 * i + 1] == scale * static_cast<float>(high) &&
                         va.quantised.sum32[i] == scale * static_cast<float>(low + high);
      if (!right)
        FAIL_CHECK("sums of block " << i);
    }
  }
  if (vb.full != nullptr)
    CHECK(difference({va.full, b.stored.rows * vb.full_stride}, {vb.full, b.stored.rows * vb.full_stride}) < 1e-6);
}

constexpr activation_kind kinds[] = {activation_kind::quantised, activation_kind::full, activation_kind::both,
                                     activation_kind::residual_int8};

/// One sequence's pages, in no order.
class pages_of {
public:
  pages_of(std::size_t tokens, std::size_t page_bytes) {
    for (std::size_t i = 0; i < kv_pages_for(tokens); ++i)
      starts.push_back(memory.emplace_back(page_bytes).data());
    std::rotate(starts.begin(), starts.begin() + static_cast<std::ptrdiff_t>(starts.size() / 2), starts.end());
  }
  std::vector<aligned_bytes> memory;
  std::vector<std::byte*> starts;
};

cuda::attention_metadata in_step(const cuda::host_attention_metadata& t) {
  return {t.places.data(),
          t.page_starts.data(),
          t.items.data(),
          static_cast<std::uint32_t>(t.places.size()),
          static_cast<std::uint32_t>(t.items.size()),
          t.slots};
}

void attend(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
            std::span<const sequence_rows> sequences, float* out) {
  const cuda::host_attention_metadata tables(shape, sequences);
  const aligned_bytes scratch(cuda::attention_scratch_bytes(shape, tables.slots) + 1);
  compute(call::attention{q, stride, shape, layer, in_step(tables), out, scratch.data()});
}

/// A number of a cache, decoded as `kv_cache.hpp` says.
float number_at(kv_type type, const std::byte* head, std::size_t at, std::size_t count, std::size_t scale) {
  if (type == kv_type::q8_0) {
    std::uint16_t half = 0;
    std::memcpy(&half, head + count + 2 * scale, sizeof half);
    return static_cast<float>(static_cast<std::int8_t>(head[at])) * half_to_float(half);
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, head + 2 * at, sizeof bits);
  return type == kv_type::f16 ? half_to_float(bits) : bf16_to_float(bits);
}

/// All keys and values of a layer's tokens.
std::vector<float> numbers(const pages_of& pages, const attention_shape& s, const kv_layer& layer, std::size_t tokens) {
  std::vector<float> out;
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::byte* at = pages.starts[t / kv_page_tokens] + layer.offset;
    const std::size_t in_page = t % kv_page_tokens;
    for (std::size_t h = 0; h < s.kv_heads; ++h, at += kv_head_bytes(layer.type, s.key_size))
      for (std::size_t d = 0; d < s.key_size; ++d)
        out.push_back(number_at(layer.type, at, d * kv_page_tokens + in_page, s.key_size * kv_page_tokens,
                                d / kv_block * kv_page_tokens + in_page));
    for (std::size_t h = 0; h < s.kv_heads; ++h, at += kv_head_bytes(layer.type, s.value_size))
      for (std::size_t d = 0; d < s.value_size; ++d)
        out.push_back(number_at(layer.type, at, in_page * s.value_size + d, s.value_size * kv_page_tokens,
                                in_page * kv_blocks(s.value_size) + d / kv_block));
  }
  return out;
}

} // namespace

TEST_CASE("CUDA: a product of any type and number of rows is the host's", "[cuda]") {
  for (const tensor_type_info& type : tensor_types())
    for (const std::size_t columns : product_widths(type))
      for (const std::size_t rows : {1, 3, 13, 27, 70}) {
        INFO(type.name << " " << columns << " columns, " << rows << " rows");
        const bool accumulate = rows == 3;
        const random_matrix m(type.type, 35, columns, 11);
        const random_input x(rows, columns, 12);
        const auto input = view_of(x.stored, false);
        if (type.type == tensor_type::f16 || type.type == tensor_type::bf16) // whose inputs are rounded
          for (float& number : std::span(input.full, rows * input.full_stride))
            number = bf16_to_float(float_to_bf16(number));
        const std::size_t stride = 38;
        std::vector<float> ours(rows * stride, accumulate ? 0.5F : untouched), wanted = ours;
        const linear_target target{m.view(), wanted.data(), stride, accumulate};
        with_ops(kernels_of("scalar"), 1, false, [&](ops& o) { o.linear(x.stored, rows, {&target, 1}); });
        multiply(input, rows, {m.view(), ours.data(), stride, accumulate});
        for (std::size_t r = 0; r < rows; ++r) {
          const std::size_t at = r * stride;
          CHECK(difference({ours.data() + at, 35}, {wanted.data() + at, 35}) < under_test().precision);
          for (std::size_t i = 35; i < stride; ++i)
            CHECK(std::memcmp(&ours[at + i], &wanted[at + i], sizeof(float)) == 0); // nothing behind the rows
        }
      }
}

TEST_CASE("CUDA: targets of several types share their input", "[cuda]") {
  const random_matrix m[] = {{tensor_type::q4_k, 35, 512, 1},
                             {tensor_type::q4_k, 16, 512, 2},
                             {tensor_type::q6_k, 50, 512, 3},
                             {tensor_type::q4_k, 17, 512, 4}};
  const random_input x(2, 512, 5);
  std::vector<float> ours(std::size_t{2} * 118, untouched), wanted = ours;
  std::vector<linear_target> targets, alone;
  std::size_t at = 0;
  for (const auto& one : m) {
    targets.push_back({one.view(), ours.data() + at, 118, false});
    alone.push_back({one.view(), wanted.data() + at, 118, false});
    at += one.layout.rows;
  }
  multiply(view_of(x.stored, false), 2, targets);
  for (const auto& target : alone)
    multiply(view_of(x.stored, false), 2, target);
  CHECK(same_bits(ours, wanted));
}

TEST_CASE("CUDA: a row gives the same bits whatever else is in the batch", "[cuda]") {
  constexpr std::size_t rows = cuda::max_few_inputs + 7;
  for (const auto type : {tensor_type::q4_k, tensor_type::q6_k, tensor_type::q8_0, tensor_type::bf16})
    for (const std::size_t columns : {256, 1280}) { // chunks of less than a block, and of several
      INFO(info(type).name << " " << columns << " columns");
      const random_matrix m(type, 48, columns, 3);
      const random_input x(rows, columns, 4);
      const auto input = view_of(x.stored, false);
      std::vector<float> together(rows * 48, untouched), apart = together;
      multiply(input, rows, {m.view(), together.data(), 48, false});
      for (std::size_t first = 0, count = 1; first < rows; first += count, count = std::min(2 * count, rows - first))
        multiply(input.from(first), count, {m.view(), apart.data() + first * 48, 48, false});
      CHECK(same_bits(together, apart));
    }
}

TEST_CASE("CUDA: a product of warpgroups has the bits of others", "[cuda]") {
  struct shape {
    std::size_t columns, inputs;
  };
  // One stage for each chunk, with inputs of two blocks; three stages, more than are on their way at a time.
  for (const auto [columns, inputs] : {shape{1024, 195}, shape{3072, cuda::max_few_inputs + 1}})
    for (const auto type : {tensor_type::f16, tensor_type::bf16}) {
      INFO(info(type).name << " " << columns << " columns, " << inputs << " inputs");
      const random_matrix first(type, 50, columns, 6), second(type, 33, columns, 7); // panels of two blocks
      const random_input x(inputs, columns, 8);
      const auto input = view_of(x.stored, false);
      constexpr std::size_t stride = 90;
      std::vector<float> ours(inputs * stride, 0.5F), wanted = ours;
      const auto targets = [&](std::vector<float>& out) {
        return std::array{linear_target{first.view(), out.data(), stride, true},
                          linear_target{second.view(), out.data() + 51, stride, false}};
      };
      const aligned_bytes rounded(cuda::rounded_bytes(inputs, columns));
      std::byte* const scratch = under_test().has_wgmma ? rounded.data() : nullptr;
      multiply(input, inputs, targets(wanted));
      for (const bool early : {false, true}) {
        INFO("copies come " << (early ? "early" : "late"));
        std::fill(ours.begin(), ours.end(), 0.5F);
        under_test().let_copies_come_early(early);
        multiply(input, inputs, targets(ours), scratch);
        under_test().let_copies_come_early(false);
        CHECK(same_bits(ours, wanted));
      }
    }
}

TEST_CASE("CUDA: a gated product of warpgroups has the bits of two products and SwiGLU", "[cuda]") {
  constexpr std::size_t columns = 1024, inputs = 195, rows = 75; // of which no block of threads has all
  for (const auto type : {tensor_type::f16, tensor_type::bf16}) {
    INFO(info(type).name);
    const random_matrix gate(type, rows, columns, 6), up(type, rows, columns, 7);
    const random_input x(inputs, columns, 8);
    const auto input = view_of(x.stored, false);
    std::vector<float> gates(inputs * rows), gated = gates;
    const std::array both{linear_target{gate.view(), gates.data(), rows, false},
                          linear_target{up.view(), gated.data(), rows, false}};
    multiply(input, inputs, both);
    const stored_rows ours(activation_kind::full, inputs, rows), wanted(activation_kind::full, inputs, rows);
    compute(call::store_swiglu{gates.data(), gated.data(), rows, inputs, rows, wanted.view()});
    if (!under_test().has_wgmma)
      return;
    const aligned_bytes rounded(cuda::rounded_bytes(inputs, columns));
    compute(call::gated_linear{input, inputs, gate.view(), up.view(), ours.view(), rounded.data()});
    for (std::size_t r = 0; r < inputs; ++r)
      CHECK(std::memcmp(ours.view().full + r * ours.view().full_stride,
                        wanted.view().full + r * wanted.view().full_stride, rows * sizeof(float)) == 0);
  }
}

TEST_CASE("CUDA: a residual_int8 input counts twice", "[cuda]") {
  for (const tensor_type type : {tensor_type::q6_k, tensor_type::q4_0})
    for (const std::size_t rows : {5, 40}) {
      const random_matrix m(type, 21, 512, 5);
      const auto values = random_floats(rows * 512, 6);
      const stored_rows x(activation_kind::residual_int8, rows, 512);
      std::vector<float> ours(rows * 21, untouched), wanted = ours;
      const linear_target target{m.view(), wanted.data(), 21, false};
      with_ops(kernels_of("scalar"), 1, false, [&](ops& o) {
        o.quantise_activation(values.data(), 512, rows, x.stored);
        o.linear(x.stored, rows, {&target, 1});
      });
      multiply(x.view(), rows, {m.view(), ours.data(), 21, false});
      CHECK(difference(ours, wanted) < under_test().precision);
    }
}

TEST_CASE("CUDA: rows are normed, gated and stored as on the host", "[cuda]") {
  for (const auto kind : kinds)
    for (const std::size_t width : {7, 64, 576, 1000}) {
      INFO("kind " << static_cast<int>(kind) << ", width " << width);
      const std::size_t rows = 3, stride = width + 5;
      auto x = random_floats(rows * stride, 1), gate = random_floats(rows * stride, 2, 4);
      std::fill_n(x.begin(), std::min<std::size_t>(width, 32), 0.0F); // a block of nothing
      const auto weight = random_floats(width, 3);
      const stored_rows ours[] = {{kind, rows, width}, {kind, rows, width}, {kind, rows, width}};
      const stored_rows wanted[] = {{kind, rows, width}, {kind, rows, width}, {kind, rows, width}};
      const auto& scalar = scalar::rows();
      const std::size_t pieces = divide_up(width, row_piece);
      for (std::size_t r = 0; r < rows; ++r) {
        const float* const row = x.data() + r * width;
        scalar.store_scaled(row, scalar.inverse_rms(row, width, 1e-5F), weight.data(), width, 0, pieces,
                            row_of(wanted[0].view(), r));
        scalar.store_plain(x.data() + r * stride, width, 0, pieces, row_of(wanted[1].view(), r));
        scalar.store_swiglu(gate.data() + r * stride, x.data() + r * stride, width, 0, pieces,
                            row_of(wanted[2].view(), r));
      }
      compute(call::rms_norm{x.data(), weight.data(), 1e-5F, rows, width, ours[0].view()});
      compute(call::store{x.data(), stride, rows, width, ours[1].view()});
      compute(call::store_swiglu{gate.data(), x.data(), stride, rows, width, ours[2].view()});
      for (std::size_t i = 0; i < 3; ++i)
        check_same(ours[i], wanted[i]);
    }
}

TEST_CASE("CUDA: an embedding is exact", "[cuda]") {
  for (const tensor_type_info& type : tensor_types())
    for (const std::size_t columns : product_widths(type)) {
      INFO(type.name << " " << columns);
      const random_matrix m(type.type, 35, columns, 7);
      const std::vector<std::int32_t> ids{100, 134, 117, 105, 106, 99, 135, 0}; // the last three are elsewhere
      std::vector<float> ours(ids.size() * columns, untouched), wanted(ids.size() * columns);
      for (std::size_t i = 0; i < 5; ++i)
        unpack_row(m.layout, m.packed.data(), static_cast<std::size_t>(ids[i] - 100),
                   {wanted.data() + i * columns, columns});
      compute(call::embed{m.view(), 100, ids.data(), ids.size(), ours.data()});
      CHECK(same_bits(ours, wanted));
    }
}

TEST_CASE("CUDA: chosen rows are gathered", "[cuda]") {
  constexpr std::size_t width = 70;
  const auto x = random_floats(5 * width, 8);
  const std::vector<std::uint32_t> rows{4, 0, 4};
  std::vector<float> out(rows.size() * width, untouched);
  compute(call::gather_rows{x.data(), width, rows.data(), rows.size(), out.data()});
  for (std::size_t i = 0; i < rows.size(); ++i)
    CHECK(std::equal(out.begin() + static_cast<std::ptrdiff_t>(i * width),
                     out.begin() + static_cast<std::ptrdiff_t>((i + 1) * width),
                     x.begin() + static_cast<std::ptrdiff_t>(rows[i] * width)));
}

TEST_CASE("CUDA: the top-k tokens are found, and of equal ones the lower", "[cuda]") {
  struct size_case {
    std::size_t vocabulary, k;
  };
  for (const auto [vocabulary, k] : {size_case{2, 1}, {100, 50}, {4096, 64}, {4097, 64}, {9000, 40}}) {
    INFO(vocabulary << " tokens, " << k << " wanted");
    constexpr std::size_t rows = 3;
    auto logits = random_floats(rows * vocabulary, 21);
    for (std::size_t i = 0; i < logits.size(); i += 3) // many that are equal
      logits[i] = std::round(logits[i]);
    logits[0] = logits[vocabulary] = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(logits.begin() + static_cast<std::ptrdiff_t>(2 * vocabulary), vocabulary, -INFINITY);
    std::vector<token_logit> wanted, ours(rows * k);
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const row = logits.data() + r * vocabulary;
      std::vector<std::int32_t> order(vocabulary);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [row](std::int32_t a, std::int32_t b) {
        return !std::isnan(row[a]) && (std::isnan(row[b]) || row[a] > row[b]);
      });
      std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k));
      for (std::size_t i = 0; i < k; ++i)
        wanted.push_back({row[order[i]], order[i]});
    }
    compute(call::top_k{logits.data(), rows, vocabulary, k, ours.data()});
    REQUIRE(ours.size() == wanted.size());
    for (std::size_t i = 0; i < ours.size(); ++i)
      if (ours[i].token != wanted[i].token || ours[i].logit != wanted[i].logit)
        FAIL_CHECK("row " << i / k << ", " << i % k << ": " << ours[i].token << ", not " << wanted[i].token);
  }
}

TEST_CASE("CUDA: keys and values are appended, and attention is the host's", "[cuda]") {
  struct shape_case {
    attention_shape shape;
    std::size_t dims, tokens;
  };
  // A group of 1, 3, 4 and 9 heads; values of more than 64 and 128 numbers; one page, many, and a divided context.
  const shape_case cases[] = {{{2, 2, 64, 64, 0.125F}, 64, 5},    {{9, 3, 64, 64, 0.125F}, 64, 70},
                              {{4, 1, 128, 128, 0.09F}, 128, 33}, {{9, 1, 32, 40, 0.2F}, 24, 45},
                              {{2, 1, 64, 200, 0.125F}, 64, 40},  {{2, 1, 16, 16, 0.25F}, 16, 1100}};
  for (const auto& c : cases)
    for (const auto type : {kv_type::f16, kv_type::bf16, kv_type::q8_0}) {
      INFO(to_string(type) << ", " << c.shape.heads << " heads of " << c.shape.value_size << ", " << c.tokens);
      const auto& s = c.shape;
      const std::size_t layer_bytes = kv_layer_bytes(type, s.kv_heads, s.key_size, s.value_size);
      const kv_layer layer{layer_bytes, type}; // the second of two
      const std::size_t stride = s.heads * s.key_size + s.kv_heads * (s.key_size + s.value_size);
      std::vector<float> cosines, sines;
      for (std::size_t p = 0; p < c.tokens; ++p)
        for (std::size_t i = 0; i < c.dims / 2; ++i) {
          const double angle = static_cast<double>(p) / std::pow(50.0, static_cast<double>(i));
          cosines.push_back(static_cast<float>(std::cos(angle)));
          sines.push_back(static_cast<float>(std::sin(angle)));
        }
      const rope_table rope{cosines.data(), sines.data(), c.tokens, c.dims};
      const auto input = random_floats(c.tokens * stride, 9);
      const std::size_t keys = s.heads * s.key_size, values = keys + s.kv_heads * s.key_size;
      auto q_host = input, q_ours = input;
      const pages_of host_pages(c.tokens, 2 * layer_bytes), our_pages(c.tokens, 2 * layer_bytes);
      // Few rows of a long context are what is divided; all rows of it would take long here.
      const std::size_t first = c.tokens > 200 ? c.tokens - 3 : 0, rows = c.tokens - first;
      const std::size_t width = s.heads * s.value_size;
      std::vector<float> wanted(rows * width, untouched), ours = wanted;
      with_ops(kernels_of("scalar"), 1, false, [&](ops& o) {
        const sequence_rows all{0, c.tokens, 0, host_pages.starts.data()};
        o.rope_and_append(q_host.data(), input.data() + keys, input.data() + values, stride, s, rope, layer, {&all, 1});
        const sequence_rows last{0, rows, first, host_pages.starts.data()};
        o.attention(q_host.data() + first * stride, stride, s, layer, {&last, 1}, wanted.data());
      });
      const sequence_rows all{0, c.tokens, 0, our_pages.starts.data()};
      const cuda::host_attention_metadata tables(s, {&all, 1});
      compute(call::rope_and_append{q_ours.data(), input.data() + keys, input.data() + values, stride, s, rope, layer,
                                    in_step(tables)});
      CHECK(difference(q_ours, q_host) < 1e-6);
      CHECK(difference(numbers(our_pages, s, layer, c.tokens), numbers(host_pages, s, layer, c.tokens)) <
            (type == kv_type::q8_0 ? 1e-3 : 1e-4)); // a number between two steps may go either way
      const sequence_rows last{0, rows, first, host_pages.starts.data()};
      attend(q_host.data() + first * stride, stride, s, layer, {&last, 1}, ours.data());
      // Queries, and what values are multiplied by, are halves or bfloat16.
      CHECK(difference(ours, wanted) < (type == kv_type::bf16 ? 6e-3 : 8e-4));
    }
}

TEST_CASE("CUDA: attention gives the same bits however rows and contexts are divided", "[cuda]") {
  constexpr std::size_t tokens = 2 * cuda::attention_split_pages * kv_page_tokens + 45; // three parts
  for (const auto type : {kv_type::f16, kv_type::q8_0})
    for (const attention_shape s : {attention_shape{4, 2, 32, 32, 0.2F}, attention_shape{9, 1, 16, 16, 0.25F}}) {
      INFO(to_string(type) << ", " << s.heads << " heads");
      const kv_layer layer{0, type};
      const pages_of pages(tokens, kv_layer_bytes(type, s.kv_heads, s.key_size, s.value_size));
      const std::size_t width = s.heads * s.key_size, stride = width + 2 * s.kv_heads * s.key_size;
      auto input = random_floats(tokens * stride, 9);
      // What a row does not see must not move its bits, however large it is.
      for (float& x : std::span(input).last(s.kv_heads * s.value_size))
        x *= 1e4F;
      const std::vector<float> cosines(tokens, 1.0F), sines(tokens, 0.0F);
      const rope_table rope{cosines.data(), sines.data(), tokens, 2};
      const sequence_rows all{0, tokens, 0, pages.starts.data()};
      const cuda::host_attention_metadata tables(s, {&all, 1});
      compute(call::rope_and_append{input.data(), input.data() + width, input.data() + width + s.kv_heads * s.key_size,
                                    stride, s, rope, layer, in_step(tables)});
      // The last rows at once, then as they come in a step with others: rows of a prompt in the middle, single ones.
      constexpr std::size_t rows = 7, first = tokens - rows;
      std::vector<float> together(rows * width, untouched), apart = together;
      const float* const q = input.data() + first * stride;
      const sequence_rows last{0, rows, first, pages.starts.data()};
      attend(q, stride, s, layer, {&last, 1}, together.data());
      const auto from = [&](std::size_t row, std::size_t count) {
        return sequence_rows{row, count, first + row, pages.starts.data()};
      };
      const sequence_rows divided[] = {from(0, 1), from(1, 3), from(4, 1), from(5, 1), from(6, 1)};
      CHECK(cuda::host_attention_metadata(s, divided).slots == 12);
      attend(q, stride, s, layer, divided, apart.data());
      CHECK(same_bits(together, apart));
    }
}

TEST_CASE("CUDA: tables have what the scratch has room for", "[cuda]") {
  const attention_shape s{8, 8, 64, 64, 1};
  std::vector<std::byte*> pages(400);
  for (std::size_t tokens = 1; tokens < pages.size() * kv_page_tokens; tokens += 29) {
    const sequence_rows rows[] = {{0, 1, tokens - 1, pages.data()}, {1, tokens, 0, pages.data()}};
    const cuda::host_attention_metadata tables(s, rows);
    CHECK(tables.slots <= cuda::host_attention_metadata::max_slots(kv_pages_for(tokens)));
    CHECK(tables.items.size() <= cuda::host_attention_metadata::max_items(1 + tokens, 2 * kv_pages_for(tokens)));
  }
}
