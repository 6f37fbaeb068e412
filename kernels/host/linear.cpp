// Divides matrix products between workers, and into pieces.
#include "kernels/host/linear.hpp"

#include "kernels/packed_format.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace tropilla::host {
namespace {

/// Input rows that meet a tile while it is in the first-level cache: enough that unpacking costs 1% of the products,
/// few enough that their sums (16 KiB) stay in the second-level cache.
constexpr std::size_t max_vectors = 256;
/// Bytes of an unpacked tile, which should stay in a first-level cache of 32 KiB beside the inputs that stream by.
constexpr std::size_t tile_bytes = std::size_t{24} * 1024;
/// Panels that may be multiplied together.
constexpr std::size_t max_panels = 2;

/// Up to so many input rows a product is bound by reading weights as much as by multiplying: workers have contiguous
/// shares then, as for one row, so that the next tile can be fetched across the end of a panel.
constexpr std::size_t few_rows = 32;

/// The largest number of quantised rows of an input row.
constexpr std::size_t max_int8_rows = 2;

/// Panels of each of the two matrices of a gated product that a worker multiplies before it stores what they give:
/// together, the columns that an activation is stored by.
constexpr std::size_t gated_panels = row_piece / panel_rows;
/// Floats of an input row in a gated product's scratch: gates and what they gate.
constexpr std::size_t gated_width = 2 * row_piece;
/// Input rows of a piece of a gated product: fewer than of others, for the floats that it keeps.
constexpr std::size_t max_gated_vectors = 128;

constexpr std::size_t sums_bytes = max_panels * max_vectors * panel_rows * sizeof(float);
constexpr std::size_t gated_bytes = max_gated_vectors * gated_width * sizeof(float);

/// A worker's scratch.
struct scratch {
  std::byte* tile;
  float* sums;
  float* gated;

  explicit scratch(std::byte* base)
      : tile(base), sums(reinterpret_cast<float*>(base + tile_bytes)),
        gated(reinterpret_cast<float*>(base + tile_bytes + sums_bytes)) {}
};

/// Adds the sums of a residual_int8 row's second int8 row to those of its first: `[vectors, 2, 16]` becomes `[vectors,
/// 16]`.
void join_int8_rows(std::size_t vectors, float* sums) {
  for (std::size_t v = 0; v < vectors; ++v) {
    const float* const both = sums + max_int8_rows * v * panel_rows;
    for (std::size_t i = 0; i < panel_rows; ++i)
      sums[v * panel_rows + i] = both[i] + both[panel_rows + i];
  }
}

/// Stores or adds `count` sums of each vector. As a template, `count` is a constant and the loops are whole vectors.
template <class Count>
void put_rows(Count count, float* __restrict out, std::size_t stride, bool accumulate, std::size_t vectors,
              const float* __restrict sums) {
  for (std::size_t v = 0; v < vectors; ++v, sums += panel_rows, out += stride) {
    if (!accumulate)
      std::memcpy(out, sums, count * sizeof(float));
    else
      for (std::size_t i = 0; i < count; ++i)
        out[i] += sums[i];
  }
}

/// Stores or adds the sums of one panel; the last panel of a matrix may be short.
void put(const linear_target& t, std::size_t panel, std::size_t first, std::size_t vectors, const float* sums) {
  const std::size_t row = panel * panel_rows;
  float* const out = t.out + first * t.stride + row;
  if (t.weight.layout.rows - row >= panel_rows)
    put_rows(std::integral_constant<std::size_t, panel_rows>{}, out, t.stride, t.accumulate, vectors, sums);
  else
    put_rows(t.weight.layout.rows - row, out, t.stride, t.accumulate, vectors, sums);
}

/// The input of a product: quantised rows, or float32 ones.
struct product {
  const linear_table& table;
  activation_view x;
  bool precise;

  [[nodiscard]] bool full(tensor_type type) const noexcept { return precise || packed::is_float(type); }
  [[nodiscard]] const linear_type& kernels(tensor_type type) const noexcept {
    return table.types[static_cast<std::size_t>(type)];
  }

  /// Sums of one panel and one input row, `[16]` of the scratch.
  void vector(const packed_matrix& m, std::size_t panel, const scratch& s) const;
  /// Sums of `panels` panels (1 or 2) and input rows from `first` on, `[panels, vectors, 16]` of the scratch.
  void matrix(const packed_matrix& m, std::size_t panel, std::size_t panels, std::size_t first, std::size_t vectors,
              const scratch& s) const;

private:
  void matrix_full(const packed_layout& w, const std::byte* panel, std::size_t first, std::size_t vectors, float* sums,
                   const scratch& s) const;
};

void product::vector(const packed_matrix& m, std::size_t panel, const scratch& s) const {
  const packed_layout& w = m.layout;
  const std::byte* data = m.data + panel * w.panel_bytes;
  const linear_type& k = kernels(w.type);
  if (!full(w.type)) {
    for (std::size_t i = 0; i < x.int8_rows; ++i) // the panel stays in a cache for the second
      k.vector(data, w.columns, x.quantised.from(i, 0), s.sums + i * panel_rows);
    if (x.int8_rows > 1)
      join_int8_rows(1, s.sums);
  } else if (k.vector_full != nullptr)
    k.vector_full(data, w.columns, x.full, s.sums);
  else
    matrix_full(w, data, 0, 1, s.sums, s);
}

/// Blocks of columns of a tile: pieces of equal length that fit, of whole units.
constexpr std::size_t tile_blocks(std::size_t blocks, std::size_t block_bytes, std::size_t unit) {
  const std::size_t max_blocks = round_down(tile_bytes / block_bytes, unit);
  const std::size_t pieces = std::max<std::size_t>(1, divide_up(blocks, max_blocks)); // a matrix may have no columns
  return round_up(divide_up(blocks, pieces), unit);
}

/// Has the next tile's weights brought to the second-level cache while this tile is multiplied: 2% of the 1B shape's
/// prefill (Zen 5, median of seven pairs). May lie behind the matrix: it is only fetched.
void fetch(const std::byte* data, std::size_t panels, std::size_t stride, std::size_t bytes) {
  constexpr std::size_t line = 64;
  for (std::size_t g = 0; g < panels; ++g)
    for (std::size_t at = 0; at < bytes; at += line)
      __builtin_prefetch(data + g * stride + at, 0, 2);
}

void product::matrix(const packed_matrix& m, std::size_t panel, std::size_t panels, std::size_t first,
                     std::size_t vectors, const scratch& s) const {
  const packed_layout& w = m.layout;
  const std::byte* data = m.data + panel * w.panel_bytes;
  const linear_type& k = kernels(w.type);
  const std::size_t next = vectors * panel_rows; // sums of a panel
  if (full(w.type)) {
    for (std::size_t g = 0; g < panels; ++g)
      matrix_full(w, data + g * w.panel_bytes, first, vectors, s.sums + g * next, s);
    return;
  }
  const packed::format f = packed::format_of(w.type);
  const std::size_t rows = vectors * x.int8_rows;
  if (panels == max_panels && rows <= few_rows && k.gemm_small != nullptr) {
    k.gemm_small(data, w.panel_bytes, w.columns, x.quantised.from(first * x.int8_rows, 0), rows, s.sums);
    if (x.int8_rows > 1)
      join_int8_rows(panels * vectors, s.sums);
    return;
  }
  const std::size_t next_rows = rows * panel_rows;
  std::fill_n(s.sums, panels * next_rows, 0.0F);
  const std::size_t blocks = w.columns / packed::block_columns;
  const std::size_t together = k.multiply_pair != nullptr ? panels : 1;
  const std::size_t step = tile_blocks(blocks, together * k.tile_block_bytes, f.unit_blocks);
  const std::size_t step_bytes = step / f.unit_blocks * f.unit_bytes();
  for (std::size_t b = 0; b < blocks; b += step) {
    const std::size_t count = std::min(step, blocks - b);
    const quantised_rows input = x.quantised.from(first * x.int8_rows, b);
    for (std::size_t g = 0; g < panels; g += together) {
      for (std::size_t i = 0; i < together; ++i)
        k.unpack(data + (g + i) * w.panel_bytes, b, count, s.tile + i * count * k.tile_block_bytes);
      if (b + count < blocks)
        fetch(data + g * w.panel_bytes + (b / step + 1) * step_bytes, together, w.panel_bytes, step_bytes);
      else // what a worker with a contiguous share multiplies next
        fetch(data + (g + together) * w.panel_bytes, together, w.panel_bytes, step_bytes);
      (together == 1 ? k.multiply : k.multiply_pair)(s.tile, count, input, rows, s.sums + g * next_rows);
    }
  }
  if (x.int8_rows > 1)
    join_int8_rows(panels * vectors, s.sums);
}

void product::matrix_full(const packed_layout& w, const std::byte* panel, std::size_t first, std::size_t vectors,
                          float* sums, const scratch& s) const {
  constexpr std::size_t step = 256;
  static_assert(step * panel_rows * sizeof(float) <= tile_bytes);
  std::fill_n(sums, vectors * panel_rows, 0.0F);
  auto* tile = reinterpret_cast<float*>(s.tile);
  for (std::size_t k = 0; k < w.columns; k += step) {
    const std::size_t count = std::min(step, w.columns - k);
    kernels(w.type).expand(panel, k, count, tile);
    table.multiply_full(tile, count, x.full + first * x.full_stride + k, x.full_stride, vectors, sums);
  }
}

/// Multiplies one input row: each worker reads one contiguous share of the weights' bytes, so that no worker waits for
/// a counter and the machine's prefetchers see long streams.
void one_row(const product& p, const worker_context& worker, const scratch& s, std::span<const linear_target> targets) {
  std::size_t total = 0;
  for (const linear_target& t : targets)
    total += t.weight.layout.bytes();
  const std::size_t begin = total / worker.workers() * worker.worker();
  const std::size_t end =
      worker.worker() + 1 == worker.workers() ? total : total / worker.workers() * (worker.worker() + 1);
  std::size_t at = 0;
  for (const linear_target& t : targets) {
    const packed_layout& w = t.weight.layout;
    const std::size_t panels = w.panels();
    // Panels whose first byte is in [begin, end): of a matrix without columns, the worker that has its place.
    const auto first_at = [&](std::size_t byte) {
      if (byte <= at)
        return std::size_t{0};
      return w.panel_bytes == 0 ? panels : std::min(panels, divide_up(byte - at, w.panel_bytes));
    };
    for (std::size_t g = first_at(begin); g < first_at(end); ++g) {
      p.vector(t.weight, g, s);
      put(t, g, 0, 1, s.sums);
    }
    at += w.bytes();
  }
}

/// Rows cut into pieces of equal length, at most `most`.
struct row_pieces {
  std::size_t count;
  std::size_t rows; ///< of a piece; the last may be shorter
};
constexpr row_pieces cut_rows(std::size_t rows, std::size_t max_rows) noexcept {
  const std::size_t count = divide_up(rows, max_rows);
  return {count, divide_up(rows, count)};
}

/// Multiplies several input rows: the next free worker gets a piece of a pair of panels and up to `max_vectors` rows.
void many_rows(const product& p, worker_context& worker, const scratch& s, std::size_t rows,
               std::span<const linear_target> targets) {
  const auto pairs_of = [](const linear_target& t) { return divide_up(t.weight.layout.panels(), max_panels); };
  std::size_t pairs = 0;
  for (const linear_target& t : targets)
    pairs += pairs_of(t);
  const auto [blocks, vectors] = cut_rows(rows, max_vectors / p.x.int8_rows);
  const auto multiply = [&, vectors = vectors](std::size_t piece) {
    const std::size_t first = piece / pairs * vectors;
    std::size_t pair = piece % pairs;
    const linear_target* t = targets.data();
    for (; pair >= pairs_of(*t); ++t)
      pair -= pairs_of(*t);
    if (first >= rows)
      return;
    const std::size_t panel = pair * max_panels;
    const std::size_t panels = std::min(max_panels, t->weight.layout.panels() - panel);
    const std::size_t count = std::min(vectors, rows - first);
    p.matrix(t->weight, panel, panels, first, count, s);
    for (std::size_t g = 0; g < panels; ++g)
      put(*t, panel + g, first, count, s.sums + g * count * panel_rows);
  };
  if (rows > few_rows)
    return worker.share(pairs * blocks, multiply);
  for (std::size_t i = pairs * worker.worker() / worker.workers(); i < pairs * (worker.worker() + 1) / worker.workers();
       ++i)
    multiply(i);
}

/// Both matrices of a gated product, and where its rows go.
struct gated_product {
  const product& p;
  const elementwise_kernels& kernels;
  const packed_matrix& gate;
  const packed_matrix& up;
  activation_view out;

  /// Stores columns `[64 piece, 64 piece + 64)` of input rows from `first` on.
  void store(std::size_t piece, std::size_t first, std::size_t vectors, const scratch& s) const {
    multiply(gate, piece, first, vectors, s, s.gated);
    multiply(up, piece, first, vectors, s, s.gated + row_piece);
    const std::size_t width = std::min(row_piece, gate.layout.rows - piece * row_piece);
    for (std::size_t v = 0; v < vectors; ++v) {
      const float* const at = s.gated + v * gated_width;
      kernels.store_swiglu(at, at + row_piece, width, 0, 1, piece_of(row_of(out, first + v), piece));
    }
  }

private:
  void multiply(const packed_matrix& m, std::size_t piece, std::size_t first, std::size_t vectors, const scratch& s,
                float* to) const {
    const std::size_t end = std::min((piece + 1) * gated_panels, m.layout.panels());
    for (std::size_t panel = piece * gated_panels; panel < end;) {
      const std::size_t panels = vectors == 1 ? 1 : std::min(max_panels, end - panel);
      if (vectors == 1)
        p.vector(m, panel, s);
      else
        p.matrix(m, panel, panels, first, vectors, s);
      for (std::size_t g = 0; g < panels; ++g, ++panel, to += panel_rows)
        put_rows(std::integral_constant<std::size_t, panel_rows>{}, to, gated_width, false, vectors,
                 s.sums + g * vectors * panel_rows);
    }
  }
};

} // namespace

const linear_table& linear_kernels(std::string_view isa) {
  if (isa == "scalar")
    return scalar::linear_kernels();
  if (isa == "avx2")
    return avx2::linear_kernels();
  if (isa == "avx512")
    return avx512::linear_kernels();
  throw error(errc::invalid_argument, fmt::format("unknown instruction set \"{}\"; use scalar, avx2 or avx512", isa));
}

std::size_t linear_scratch_bytes() noexcept {
  return tile_bytes + sums_bytes + gated_bytes;
}

void linear(const linear_table& table, worker_context& worker, std::byte* worker_scratch, const activation& input,
            bool precise, std::size_t rows, std::span<const linear_target> targets) {
  const product p{table, view_of(input, precise), precise};
  const scratch s(worker_scratch);
  if (rows == 1)
    one_row(p, worker, s, targets);
  else if (rows != 0)
    many_rows(p, worker, s, rows, targets);
}

void gated_linear(const linear_table& table, const elementwise_kernels& kernels, worker_context& worker,
                  std::byte* worker_scratch, const activation& input, bool precise, std::size_t rows,
                  const packed_matrix& gate, const packed_matrix& up, const activation& out) {
  const product p{table, view_of(input, precise), precise};
  const gated_product both{p, kernels, gate, up, view_of(out, precise)};
  const scratch s(worker_scratch);
  const std::size_t pieces = divide_up(out.width, row_piece);
  if (rows <= few_rows) { // contiguous shares, as in `one_row`
    for (std::size_t i = pieces * worker.worker() / worker.workers();
         i < pieces * (worker.worker() + 1) / worker.workers(); ++i)
      both.store(i, 0, rows, s);
    return;
  }
  // Neighbouring pieces share cache lines of scales: workers begin far apart, each in its own share of the columns.
  const auto [blocks, vectors] = cut_rows(rows, max_gated_vectors / p.x.int8_rows);
  const std::size_t share = divide_up(pieces, worker.workers());
  const std::size_t places = share * worker.workers();
  worker.share(places * blocks, [&, vectors = vectors](std::size_t i) {
    const std::size_t first = i / places * vectors;
    const std::size_t piece = i % worker.workers() * share + i % places / worker.workers();
    if (piece < pieces && first < rows)
      both.store(piece, first, std::min(vectors, rows - first), s);
  });
}

} // namespace tropilla::host
