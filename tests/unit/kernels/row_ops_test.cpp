// Norms, gates, quantised activations, gathering rows: against float64, and bit for bit between variants.
#include "tests/unit/kernels/device_fixture.hpp"

#include <catch2/catch.hpp>

#include <algorithm>

using namespace tropilla;
using namespace tropilla::host;
using namespace tropilla::host::testing;

namespace {

constexpr std::size_t widths[] = {1, 31, 32, 33, 64, 100, 576, 1536};

/// Checks an activation against float64 values `[rows, width]`: float32 closely, int8 by the formula.
void check_activation(const activation& a, bool precise, std::size_t rows, const std::vector<double>& expected) {
  const auto stored = view_of(a, precise);
  const std::size_t blocks = (a.width + 31) / 32;
  double worst_full = 0, worst_q = 0, worst_fine = 0, worst_sum = 0;
  std::size_t nonzero_padding = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const auto row = row_of(stored, r);
    for (std::size_t block = 0; block < blocks; ++block) {
      const std::size_t begin = block * 32, end = std::min(a.width, begin + 32);
      double largest = 1e-30;
      for (std::size_t i = begin; i < end; ++i)
        largest = std::max(largest, std::abs(expected[r * a.width + i]));
      int sums[2] = {0, 0};
      for (std::size_t i = begin; i < end; ++i) {
        const double x = expected[r * a.width + i];
        if (row.full != nullptr)
          worst_full = std::max(worst_full, std::abs(static_cast<double>(row.full[i]) - x) / largest);
        if (row.q != nullptr) {
          const double back = static_cast<double>(row.q[i]) * static_cast<double>(row.scale[block]);
          worst_q = std::max(worst_q, std::abs(back - x) / (largest / 127));
          if (row.rest != 0) {
            const auto rest = rest_of(row);
            const double fine = back + static_cast<double>(rest.q[i]) * static_cast<double>(rest.scale[block]);
            worst_fine = std::max(worst_fine, std::abs(fine - x) / (largest / 127));
          }
          sums[i % 32 / 16] += row.q[i];
        }
      }
      if (row.q != nullptr) {
        CHECK(row.minus32[block] == -(sums[0] + sums[1]));
        CHECK(row.minus16[2 * block] == -sums[0]);
        CHECK(row.minus16[2 * block + 1] == -sums[1]);
      }
      if (row.q != nullptr)
        for (int half = 0; half < 2; ++half)
          worst_sum = std::max(worst_sum, std::abs(static_cast<double>(row.sum16[2 * block + half]) -
                                                   sums[half] * static_cast<double>(row.scale[block])) /
                                              largest);
      if (row.q != nullptr)
        worst_sum = std::max(worst_sum, std::abs(static_cast<double>(row.sum32[block]) -
                                                 (sums[0] + sums[1]) * static_cast<double>(row.scale[block])) /
                                            largest);
    }
    for (std::size_t i = a.width; row.q != nullptr && i < stored.quantised.padded; ++i)
      nonzero_padding += row.q[i] != 0 || (i % 32 == 0 && row.scale[i / 32] != 0) ||
                         (i % 32 == 0 && row.sum32[i / 32] != 0) || (i % 16 == 0 && row.sum16[i / 16] != 0) ||
                         (i % 32 == 0 && row.minus32[i / 32] != 0) || (i % 16 == 0 && row.minus16[i / 16] != 0);
    for (std::size_t i = a.width; row.full != nullptr && i < row.full_stride; ++i)
      nonzero_padding += row.full[i] != 0;
  }
  CHECK(worst_full < 2e-6);
  CHECK(worst_q < 0.501);                 // half a step of the block
  CHECK(worst_fine < 0.501 / 254 + 1e-4); // half a step of what was left, and the rounding of x itself
  CHECK(worst_sum < 1e-5);
  CHECK(nonzero_padding == 0);
}

/// An activation over memory of its own.
struct owned_activation {
  owned_activation(activation_kind kind, std::size_t rows, std::size_t width, bool precise = false)
      : memory(activation_buffer_bytes(precise ? activation_kind::full : kind, rows, width)), view{memory.data(), kind,
                                                                                                   rows, width} {}
  aligned_bytes memory;
  activation view;
};

using fill = std::function<void(ops&, std::size_t rows, const activation&)>;

/// Runs `f` with every variant, kind, precision and number of workers; compares bits, then values with `expected`.
void check_all(std::size_t rows, std::size_t width, const fill& f, const std::vector<double>& expected) {
  for (const auto kind :
       {activation_kind::quantised, activation_kind::full, activation_kind::both, activation_kind::residual_int8})
    for (const bool precise : {false, true}) {
      const owned_activation reference(kind, rows, width, precise);
      with_ops(variants().front().kernels, 1, precise, [&](ops& o) { f(o, rows, reference.view); });
      check_activation(reference.view, precise, rows, expected);
      for (const auto& v : variants())
        for (const std::size_t workers : {1, 2, 3, 5}) {
          const owned_activation out(kind, rows, width, precise);
          with_ops(v.kernels, workers, precise, [&](ops& o) { f(o, rows, out.view); });
          INFO(v.name << ", " << workers << " workers, width " << width << ", " << rows << " rows");
          REQUIRE(out.memory == reference.memory);
        }
    }
}

} // namespace

TEST_CASE("RMS norm is x / sqrt(mean(x^2) + epsilon) * weight, the same bits from every variant and worker count") {
  for (const std::size_t width : widths)
    for (const std::size_t rows : {1, 7}) {
      const auto x = random_floats(rows * width, 1, 3);
      const auto weight = random_floats(width, 2);
      std::vector<double> expected(rows * width);
      for (std::size_t r = 0; r < rows; ++r) {
        double sum = 0;
        for (std::size_t i = 0; i < width; ++i)
          sum += std::pow(static_cast<double>(x[r * width + i]), 2);
        const double norm = std::sqrt(sum / static_cast<double>(width) + 1e-5F);
        for (std::size_t i = 0; i < width; ++i)
          expected[r * width + i] = static_cast<double>(x[r * width + i]) / norm * static_cast<double>(weight[i]);
      }
      check_all(
          rows, width,
          [&](ops& o, std::size_t n, const activation& out) { o.rms_norm(x.data(), weight.data(), 1e-5F, n, out); },
          expected);
    }
}

TEST_CASE("SwiGLU is gate / (1 + exp(-gate)) * up, for gates of any size") {
  // Input row r is the unit vector r: the products are column r of the weights, exactly.
  const std::size_t rows = 3;
  const owned_activation input(activation_kind::full, rows, rows);
  const activation_view stored = view_of(input.view, true);
  std::fill_n(stored.full, rows * stored.full_stride, 0.0F);
  for (std::size_t r = 0; r < rows; ++r)
    stored.full[r * stored.full_stride + r] = 1;
  for (const std::size_t width : widths) {
    auto gate = random_floats(width * rows, 3, 4);
    const auto up = random_floats(width * rows, 4);
    const float extremes[] = {0.0F, -0.0F, 80.0F, -80.0F, -100.0F, 1000.0F, -1e3F, 1e3F};
    for (std::size_t i = 0; i < std::min<std::size_t>(8, width); ++i)
      gate[i * rows] = extremes[i];
    std::vector<double> expected(rows * width);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < width; ++i) {
        const double g = gate[i * rows + r];
        expected[r * width + i] = g / (1 + std::exp(-g)) * static_cast<double>(up[i * rows + r]);
      }
    const packed_floats gate_matrix(width, rows, gate), up_matrix(width, rows, up);
    check_all(
        rows, width,
        [&](ops& o, std::size_t n, const activation& out) {
          o.gated_linear(input.view, n, gate_matrix.view(), up_matrix.view(), out);
        },
        expected);
  }
}

TEST_CASE("activations are stored with their scales and sums, zero and tiny blocks included") {
  for (const std::size_t width : widths) {
    const std::size_t rows = 5, stride = width + 3;
    auto x = random_floats(rows * stride, 5, 10);
    for (std::size_t i = 0; i < width; ++i) {
      x[i] = 0;                   // row 0: nothing
      x[stride + i] *= 1e-42F;    // row 1: below what a scale can be
      x[2 * stride + i] *= 1e30F; // row 2: large
      if (i % 3 == 0)
        x[3 * stride + i] = i % 2 == 0 ? 254.0F : -127.0F; // row 3: ties between two steps
    }
    std::vector<double> expected(rows * width);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < width; ++i)
        expected[r * width + i] = r == 1 ? 0 : static_cast<double>(x[r * stride + i]);
    std::vector<double> plain = expected;
    check_all(
        rows, width,
        [&](ops& o, std::size_t n, const activation& out) { o.quantise_activation(x.data(), stride, n, out); },
        expected);
  }
}

TEST_CASE("the bits of a row do not depend on how many rows there are") {
  const std::size_t width = 576, rows = 9;
  const auto x = random_floats(rows * width, 6);
  const auto weight = random_floats(width, 7);
  for (const auto& v : variants()) {
    const owned_activation all(activation_kind::both, rows, width);
    with_ops(v.kernels, 2, false, [&](ops& o) { o.rms_norm(x.data(), weight.data(), 1e-6F, rows, all.view); });
    for (std::size_t r = 0; r < rows; ++r) {
      const owned_activation one(activation_kind::both, 1, width);
      with_ops(v.kernels, 3, false,
               [&](ops& o) { o.rms_norm(x.data() + r * width, weight.data(), 1e-6F, 1, one.view); });
      const auto a = row_of(view_of(all.view, false), r), b = row_of(view_of(one.view, false), 0);
      CHECK(std::memcmp(a.q, b.q, width) == 0);
      CHECK(std::memcmp(a.scale, b.scale, width / 32 * sizeof(float)) == 0);
      CHECK(std::memcmp(a.full, b.full, width * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("what a job writes by itself is seen by an operation after a barrier") {
  constexpr std::size_t rows = 64, width = 16;
  std::vector<std::size_t> backwards(rows);
  for (std::size_t i = 0; i < rows; ++i)
    backwards[i] = rows - 1 - i;
  for (const std::size_t workers : {1, 2, 3}) {
    std::vector<float> x(rows * width), out(rows * width);
    with_ops(variants().front().kernels, workers, false, [&](ops& o) {
      for (std::size_t i = o.worker(); i < x.size(); i += o.workers())
        x[i] = static_cast<float>(i);
      o.barrier();
      o.gather_rows(x.data(), width, backwards, out.data());
    });
    for (std::size_t i = 0; i < rows; ++i)
      CHECK(std::memcmp(out.data() + i * width, x.data() + backwards[i] * width, width * sizeof(float)) == 0);
    CHECK(x.back() == static_cast<float>(x.size() - 1));
  }
}

TEST_CASE("gathering copies the chosen rows") {
  const std::size_t width = 37;
  const auto x = random_floats(20 * width, 8);
  const std::vector<std::size_t> rows{3, 3, 19, 0, 7};
  for (const std::size_t workers : {1, 2, 4}) {
    std::vector<float> out(rows.size() * width, -1);
    with_ops(variants().front().kernels, workers, false,
             [&](ops& o) { o.gather_rows(x.data(), width, rows, out.data()); });
    for (std::size_t i = 0; i < rows.size(); ++i)
      CHECK(std::memcmp(out.data() + i * width, x.data() + rows[i] * width, width * sizeof(float)) == 0);
  }
}

TEST_CASE("embedding copies the rows of the tokens") {
  const std::size_t width = 64, tokens = 50;
  const auto table = random_floats(tokens * width, 9);
  const packed_floats matrix(tokens, width, table);
  const std::vector<std::int32_t> ids{49, 0, 7, 7, 31};
  for (const std::size_t workers : {1, 2, 4}) {
    std::vector<float> out(ids.size() * width, -1);
    with_ops(variants().front().kernels, workers, false, [&](ops& o) { o.embed(matrix.view(), 0, ids, out.data()); });
    for (std::size_t i = 0; i < ids.size(); ++i)
      CHECK(std::memcmp(out.data() + i * width, table.data() + static_cast<std::size_t>(ids[i]) * width,
                        width * sizeof(float)) == 0);
  }
}

TEST_CASE("embedding gives zeros for tokens whose rows another device has") {
  const std::size_t width = 64, tokens = 50;
  const auto table = random_floats(tokens * width, 9);
  const packed_floats matrix(tokens, width, table);
  const std::vector<std::int32_t> ids{1000, 999, 1049, 1050, 0};
  for (const std::size_t workers : {1, 3}) {
    std::vector<float> out(ids.size() * width, -1), wanted(ids.size() * width);
    std::copy_n(table.begin(), width, wanted.begin());
    std::copy_n(table.end() - width, width, wanted.begin() + 2 * width);
    with_ops(variants().front().kernels, workers, false,
             [&](ops& o) { o.embed(matrix.view(), 1000, ids, out.data()); });
    CHECK(std::memcmp(out.data(), wanted.data(), out.size() * sizeof(float)) == 0);
  }
}
