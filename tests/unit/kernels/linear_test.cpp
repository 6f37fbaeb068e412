// Matrix products against double precision, and against themselves: instruction sets, workers and batches agree in
// every bit.
#include "matrix_fixture.hpp"

#include "kernels/host/linear.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

using namespace tropilla;
using namespace tropilla::host;
using namespace tropilla::host::testing;

namespace {

/// Every instruction set that can run here; AVX-512 through its emulation where the machine lacks it.
std::vector<const linear_table*> tables() {
  std::vector<const linear_table*> out{&linear_kernels("scalar")};
  if (has_isa("avx2")) {
    out.push_back(&linear_kernels("avx2"));
#ifdef TROPILLA_HAS_EMULATED_AVX512
    out.push_back(&avx512_emulated::linear_kernels());
#endif
  }
  if (has_isa("avx512"))
    out.push_back(&linear_kernels("avx512"));
  return out;
}

/// Calls `f(worker, its scratch)` on every worker of a team.
template <class F>
void on_workers(std::size_t workers, F&& f) {
  team t(workers, "test");
  const std::size_t scratch = round_up(linear_scratch_bytes(), 64);
  aligned_bytes memory(workers * scratch);
  t.run([&](worker_context& worker) {
    f(worker, memory.data() + worker.worker() * scratch);
    worker.barrier();
  });
}

void run(const linear_table& table, std::size_t workers, const activation& input, bool precise, std::size_t rows,
         std::span<const linear_target> targets) {
  on_workers(workers, [&](worker_context& worker, std::byte* scratch) {
    linear(table, worker, scratch, input, precise, rows, targets);
  });
}

/// Rows of an activation of both kinds, nothing stored yet.
struct stored_rows {
  aligned_bytes storage;
  activation stored;
  activation_view view;

  stored_rows(std::size_t rows, std::size_t width)
      : storage(activation_buffer_bytes(activation_kind::both, rows, width)), stored{storage.data(),
                                                                                     activation_kind::both, rows,
                                                                                     width},
        view(view_of(stored, false)) {}
};

/// Output rows that start as `start` (NaN where the product must write without reading).
struct output {
  std::size_t stride;
  std::vector<float> values;

  output(std::size_t rows, std::size_t width, float start = std::numeric_limits<float>::quiet_NaN())
      : stride(width + 3), values(rows * (width + 3), start) {}

  [[nodiscard]] linear_target of(const random_matrix& m, bool accumulate = false) {
    return {m.view(), values.data(), stride, accumulate};
  }
  [[nodiscard]] bool same(const output& other) const {
    return values.size() == other.values.size() &&
           std::memcmp(values.data(), other.values.data(), values.size() * sizeof(float)) == 0;
  }
};

output product(const linear_table& table, std::size_t workers, const random_matrix& m, const random_input& x,
               bool precise, std::size_t rows, float start = 0, bool accumulate = false) {
  output out(rows, m.layout.rows, start);
  const linear_target targets[] = {out.of(m, accumulate)};
  run(table, workers, x.stored, precise, rows, targets);
  return out;
}

/// Compares with the exact product of what the bytes stand for; the error of float32 sums is relative to the sum of
/// the products' magnitudes.
void check_accuracy(const output& out, const random_matrix& m, const random_input& x, bool full, std::size_t rows,
                    double start) {
  double worst = 0;
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t n = 0; n < m.layout.rows; ++n) {
      double sum = start;
      double magnitude = std::abs(start) + 1e-9;
      for (std::size_t k = 0; k < m.layout.columns; ++k) {
        const double input = full ? static_cast<double>(x.values[r * m.layout.columns + k]) : x.quantised(r, k);
        const double term = static_cast<double>(m.values[n * m.layout.columns + k]) * input;
        sum += term;
        magnitude += std::abs(term);
      }
      const double error = std::abs(static_cast<double>(out.values[r * out.stride + n]) - sum) / magnitude;
      worst = std::max(worst, std::isnan(error) ? 1.0 : error);
    }
  CHECK(worst < 4e-6);
}

} // namespace

TEST_CASE("a product is exact up to the rounding of its sums", "[linear]") {
  for (const linear_table* table : tables())
    for (const tensor_type_info& type : tensor_types())
      for (const std::size_t columns : product_widths(type)) {
        const bool accumulate = columns % 128 == 0;
        const random_matrix m(type.type, 35, columns, 11);
        const random_input x(13, columns, 12);
        for (const std::size_t rows : {1, 13}) {
          INFO(table->isa << " " << type.name << " " << columns << " columns, " << rows << " rows");
          const output out = product(*table, 1, m, x, false, rows, accumulate ? 0.5F : NAN, accumulate);
          check_accuracy(out, m, x, type.block_values == 1, rows, accumulate ? 0.5 : 0);
        }
      }
}

TEST_CASE("a precise product uses the inputs as they are", "[linear]") {
  for (const linear_table* table : tables())
    for (const tensor_type_info& type : tensor_types()) {
      const std::size_t columns = product_widths(type).back();
      const random_matrix m(type.type, 17, columns, 21);
      const std::vector<float> values = random_floats(9 * columns, 22);
      random_input x(9, columns, 22);
      aligned_bytes storage(activation_buffer_bytes(activation_kind::full, 9, columns));
      x.stored = {storage.data(), activation_kind::full, 9, columns};
      const activation_view view = view_of(x.stored, true);
      for (std::size_t r = 0; r < 9; ++r)
        std::memcpy(view.full + r * view.full_stride, values.data() + r * columns, columns * sizeof(float));
      INFO(table->isa << " " << type.name);
      check_accuracy(product(*table, 2, m, x, true, 9), m, x, true, 9, 0);
      check_accuracy(product(*table, 2, m, x, true, 1), m, x, true, 1, 0);
    }
}

TEST_CASE("instruction sets agree in every bit", "[linear]") {
  std::mt19937 engine(5);
  const auto seed = [&] { return static_cast<std::uint32_t>(engine()); };
  const auto pick = [&](std::size_t low, std::size_t high) { return low + engine() % (high - low + 1); };
  for (const tensor_type_info& type : tensor_types())
    for (int round = 0; round < 4; ++round) {
      const std::size_t columns = type.block_values == 1 ? pick(1, 700) : type.block_values * pick(1, 5);
      const std::size_t rows = pick(1, 70);
      const random_matrix m(type.type, pick(1, 50), columns, seed());
      const random_input x(rows, columns, seed());
      const bool accumulate = round % 2 == 1;
      for (const bool precise : {false, true}) {
        const output expected = product(linear_kernels("scalar"), 1, m, x, precise, rows, 0.25F, accumulate);
        for (const linear_table* table : tables()) {
          INFO(table->isa << " " << type.name << " " << m.layout.rows << " x " << columns << ", " << rows << " rows"
                          << (precise ? ", precise" : ""));
          CHECK(product(*table, 2, m, x, precise, rows, 0.25F, accumulate).same(expected));
        }
      }
    }
}

TEST_CASE("a row's product does not depend on the rows beside it, nor on the number of workers", "[linear]") {
  for (const linear_table* table : tables()) {
    if (table->isa == "scalar")
      continue;
    for (const tensor_type_info& type : tensor_types()) {
      const std::size_t columns = type.block_values == 1 ? 200 : type.block_values == 32 ? 1152 : 1536;
      const random_matrix m(type.type, 37, columns, 31);
      const random_input x(300, columns, 32);
      const output all = product(*table, 2, m, x, false, 300);
      for (const std::size_t rows : {1, 2, 3, 5, 8, 9, 20, 257})
        for (const std::size_t workers : {1, 3}) {
          const output some = product(*table, workers, m, x, false, rows);
          INFO(table->isa << " " << type.name << ", " << rows << " rows, " << workers << " workers");
          CHECK(std::equal(some.values.begin(), some.values.end(), all.values.begin()));
        }
    }
  }
}

TEST_CASE("several targets share an input, each with its own type, width and way of storing", "[linear]") {
  const random_matrix a(tensor_type::q4_1, 48, 576, 1);
  const random_matrix b(tensor_type::q8_0, 17, 576, 2);
  const random_matrix c(tensor_type::f16, 1, 576, 3);
  const random_matrix d(tensor_type::q5_0, 90, 576, 4);
  const random_input x(40, 576, 5);
  for (const linear_table* table : tables())
    for (const std::size_t workers : {1, 2, 3})
      for (const std::size_t rows : {1, 4, 40}) {
        INFO(table->isa << " " << workers << " workers, " << rows << " rows");
        output out_a(rows, 48);
        output out_b(rows, 17, 2);
        output out_c(rows, 1);
        output out_d(rows, 90, -1);
        const linear_target targets[] = {out_a.of(a), out_b.of(b, true), out_c.of(c), out_d.of(d, true)};
        run(*table, workers, x.stored, false, rows, targets);
        CHECK(out_a.same(product(*table, 1, a, x, false, rows, NAN)));
        CHECK(out_b.same(product(*table, 1, b, x, false, rows, 2, true)));
        CHECK(out_c.same(product(*table, 1, c, x, false, rows, NAN)));
        CHECK(out_d.same(product(*table, 1, d, x, false, rows, -1, true)));
      }
}

TEST_CASE("a gated product is two products and SwiGLU, in every bit", "[linear]") {
  // The gate and what it gates may differ in type; 200 columns are no whole number of pieces.
  for (const std::size_t width : {64, 200})
    for (const linear_table* table : tables())
      for (const tensor_type type : {tensor_type::f16, tensor_type::q4_1, tensor_type::q8_0, tensor_type::q3_k}) {
        const std::size_t columns = info(type).block_values == 256 ? 256 : 96;
        const random_matrix gate(type, width, columns, 41);
        const random_matrix up(columns == 256 ? tensor_type::q6_k : tensor_type::q4_1, width, columns, 42);
        const random_input x(300, columns, 43);
        for (const std::size_t rows : {1, 17, 300}) {
          const output g = product(*table, 1, gate, x, false, rows);
          const output u = product(*table, 1, up, x, false, rows);
          const stored_rows expected(rows, width);
          for (std::size_t r = 0; r < rows; ++r)
            scalar::rows().store_swiglu(g.values.data() + r * g.stride, u.values.data() + r * u.stride, width, 0,
                                        divide_up(width, row_piece), row_of(expected.view, r));
          for (const std::size_t workers : {1, 3}) {
            const stored_rows out(rows, width);
            on_workers(workers, [&](worker_context& worker, std::byte* scratch) {
              gated_linear(*table, scalar::rows(), worker, scratch, x.stored, false, rows, gate.view(), up.view(),
                           out.stored);
            });
            INFO(table->isa << " " << info(type).name << ", " << width << " x " << columns << ", " << rows << " rows, "
                            << workers << " workers");
            REQUIRE(out.storage == expected.storage);
          }
        }
      }
}

TEST_CASE("nothing is read or written for no rows, no targets or an empty matrix", "[linear]") {
  const random_matrix m(tensor_type::q4_0, 20, 64, 1);
  const random_matrix empty(tensor_type::q4_0, 0, 64, 1);
  const random_input x(2, 64, 2);
  for (const linear_table* table : tables()) {
    run(*table, 2, x.stored, false, 2, {});
    output none(1, 20);
    const linear_target no_rows[] = {none.of(m)};
    run(*table, 2, x.stored, false, 0, no_rows);
    CHECK(std::isnan(none.values.front()));
    for (const std::size_t rows : {1, 2}) {
      output out(rows, 20);
      output nothing(rows, 0);
      const linear_target targets[] = {nothing.of(empty), out.of(m), nothing.of(empty)};
      run(*table, 3, x.stored, false, rows, targets);
      CHECK(out.same(product(*table, 1, m, x, false, rows, NAN)));
    }
  }
}

TEST_CASE("an unknown instruction set is refused", "[linear]") {
  CHECK_THROWS_AS(linear_kernels("mmx"), error);
}
