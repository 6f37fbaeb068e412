// Packing keeps every bit, costs no memory, and can be done in pieces.
#include "matrix_fixture.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>

using namespace tropilla;
using namespace tropilla::host::testing;

namespace {

std::vector<std::size_t> widths_of(const tensor_type_info& type) {
  if (type.block_values == 1)
    return {1, 31, 576};
  if (type.block_values == 32)
    return {32, 96, 576};
  return {256, 1280};
}

} // namespace

TEST_CASE("a packed row reads back as the file's blocks, bit for bit", "[packed]") {
  for (const tensor_type_info& type : tensor_types())
    for (const std::size_t columns : widths_of(type))
      for (const std::size_t rows : {1, 15, 16, 17, 50}) {
        INFO(type.name << " " << rows << " x " << columns);
        const random_matrix m(type.type, rows, columns, static_cast<std::uint32_t>(rows + columns));
        for (std::size_t r = 0; r < rows; ++r) {
          std::vector<float> row(columns, -1.0F);
          unpack_row(m.layout, m.packed.data(), r, row);
          REQUIRE(std::memcmp(row.data(), m.values.data() + r * columns, columns * sizeof(float)) == 0);
        }
      }
}

TEST_CASE("packing costs no more than rounding panels up to a cache line", "[packed]") {
  for (const tensor_type_info& type : tensor_types())
    for (const std::size_t columns : widths_of(type)) {
      INFO(type.name << " " << columns);
      const packed_layout layout = make_packed_layout(type.type, 33, columns);
      CHECK(layout.panels() == 3);
      CHECK(layout.panel_bytes % 64 == 0);
      CHECK(layout.panel_bytes >= panel_rows * row_bytes(type.type, columns));
      CHECK(layout.panel_bytes < panel_rows * row_bytes(type.type, columns) + 64);
    }
}

TEST_CASE("a matrix packed in pieces is the matrix packed at once, and its padding is zero", "[packed]") {
  for (const tensor_type_info& type : tensor_types()) {
    const std::size_t columns = type.block_values == 1 ? 40 : type.block_values * 3;
    const random_matrix m(type.type, 70, columns, 3);
    aligned_bytes pieces(m.layout.bytes());
    const std::size_t group = panel_rows * row_bytes(type.type, columns);
    for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{3, 5}, {0, 1}, {1, 3}})
      pack_panels(m.layout, first, last,
                  std::span(m.file).subspan(first * group, std::min(last * group, m.file.size()) - first * group),
                  pieces.data());
    INFO(type.name);
    CHECK(pieces == m.packed);

    packed_layout all_rows = m.layout;
    all_rows.rows = m.layout.panels() * panel_rows;
    std::vector<float> row(columns);
    for (std::size_t r = m.layout.rows; r < all_rows.rows; ++r) {
      unpack_row(all_rows, m.packed.data(), r, row);
      CHECK(std::all_of(row.begin(), row.end(), [](float x) { return x == 0; }));
    }
  }
}

TEST_CASE("a width that cuts a block, and a matrix that no machine could hold, are refused", "[packed]") {
  const auto refused = [](tensor_type type, std::size_t rows, std::size_t columns) {
    try {
      (void)make_packed_layout(type, rows, columns);
    } catch (const error& e) {
      return e.code() == errc::unsupported;
    }
    return false;
  };
  CHECK(refused(tensor_type::q4_0, 16, 33));
  CHECK(refused(tensor_type::q4_k, 16, 576));
  CHECK(refused(tensor_type::f32, 16, SIZE_MAX / 32));
  CHECK(refused(tensor_type::f32, SIZE_MAX, 64));
  CHECK(refused(tensor_type::q8_0, SIZE_MAX / 64, 64));
  CHECK(make_packed_layout(tensor_type::f16, 0, 64).bytes() == 0);
}
