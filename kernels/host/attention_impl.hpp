/// Implements the kernels of `attention_kernels.hpp` over a type of sixteen floats (`simd16_*.hpp`).
///
/// Both products work on tiles of R query vectors by N vectors of sixteen tokens (or values), whose R x N sums stay in
/// registers. Pages are converted to float once and then used by all tiles; with a single tile (decoding) they are
/// converted on the way into registers instead.
#pragma once

#include "kernels/host/attention_kernels.hpp"
#include "kernels/host/kv_rows.hpp"
#include "kernels/host/simd16_math.hpp"
#include "memory/rounding.hpp"

#include <limits>

namespace tropilla::host {

// Each height of a tile is code of its own. With sanitizers these files took minutes of a core to compile, and a wide
// tile and a narrow one show the loops.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool few_tiles = true;
#else
inline constexpr bool few_tiles = false;
#endif

template <class V>
struct attention_kernels_of {
  using vec = typename V::vec;
  using address = std::uintptr_t; ///< may lie outside of any object: only prefetched
  static constexpr std::size_t w = V::width;
  static constexpr std::size_t page = kv_page_tokens;
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  static_assert(page == 2 * w);
  static constexpr std::size_t tile_rows = few_tiles ? 2 : V::tile_rows;
  static constexpr std::size_t wide_tile_rows = few_tiles ? 1 : V::wide_tile_rows;

  static std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

  static void pack_queries(const float* q, std::size_t stride, std::size_t group, std::size_t vectors,
                           std::size_t key_size, float scale, float* packed) noexcept {
    for (std::size_t first = 0; first < vectors; first += tile_rows) {
      const std::size_t rows = smaller(tile_rows, vectors - first);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t v = first + r;
        const float* const from = q + (v / group) * stride + (v % group) * key_size;
        for (std::size_t d = 0; d < key_size; ++d)
          packed[d * rows + r] = from[d] * scale;
      }
      packed += rows * key_size;
    }
  }

  /// `out[r][j] (+)= sum over i of a[i * a_step + r * a_stride] * b[i][j]` for R rows and N vectors of columns.
  /// `ahead` is where rows that are laid out as `b` will be read next (0: not known): the processor's own
  /// prefetching ends at each page of the cache.
  template <std::size_t R, std::size_t N, bool Accumulate, class Rows>
  static void tile(const float* a, std::size_t a_step, std::size_t a_stride, Rows b, std::size_t count, float* out,
                   std::size_t out_stride, address ahead) noexcept {
    using reg = typename V::reg;
    constexpr std::size_t regs = N * V::regs, size = w / V::regs;
    reg sum[R][regs];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (std::size_t n = 0; n < regs; ++n)
        sum[r][n] = Accumulate ? V::load_reg(out + r * out_stride + n * size) : V::reg_of(0);
    for (std::size_t i = 0; i < count; ++i, a += a_step, b.next_row()) {
      if constexpr (Rows::in_page) {
        __builtin_prefetch(reinterpret_cast<const void*>(ahead));
        ahead += b.row_bytes();
      }
      b.begin_row();
      // Registers are scarce on AVX2: the order keeps the shorter side of the tile in them, and one of the other.
      if constexpr (R < regs) {
        reg factor[R];
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r)
          factor[r] = V::reg_of(a[r * a_stride]);
#pragma GCC unroll 4
        for (std::size_t n = 0; n < regs; ++n) {
          const reg column = b.load(n);
#pragma GCC unroll 16
          for (std::size_t r = 0; r < R; ++r)
            sum[r][n] = V::fma_reg(factor[r], column, sum[r][n]);
        }
      } else {
        reg column[regs];
#pragma GCC unroll 4
        for (std::size_t n = 0; n < regs; ++n)
          column[n] = b.load(n);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) {
          const reg factor = V::reg_of(a[r * a_stride]);
#pragma GCC unroll 4
          for (std::size_t n = 0; n < regs; ++n)
            sum[r][n] = V::fma_reg(factor, column[n], sum[r][n]);
        }
      }
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (std::size_t n = 0; n < regs; ++n)
        V::store_reg(out + r * out_stride + n * size, sum[r][n]);
  }

  /// Adds up scores of R vectors with `count` rows of one page of keys: `scores[r * attention_chunk + t]`.
  /// `ahead`: see `tile`.
  template <std::size_t R, bool Accumulate, class Rows>
  static void score_tile(const float* queries, const Rows& keys, std::size_t count, std::size_t tokens, float* scores,
                         address ahead = 0) noexcept {
    if constexpr (R <= wide_tile_rows) {
      tile<R, 2, Accumulate>(queries, R, 1, keys.template columns<2>(0), count, scores, attention_chunk, ahead);
    } else {
      for (std::size_t t = 0; t < tokens; t += w)
        tile<R, 1, Accumulate>(queries, R, 1, keys.template columns<1>(t), count, scores + t, attention_chunk, ahead);
    }
  }

  /// Weighted values of R vectors: `out[r][c] (+)= sum over t of p[r][t] * values[t][c]`, `columns` a multiple of w.
  /// `ahead` has elements of `ElementBytes`.
  template <std::size_t R, bool Accumulate, std::size_t ElementBytes, class Rows>
  static void value_tile(const float* p, const Rows& values, std::size_t tokens, std::size_t columns, float* out,
                         std::size_t out_stride, address ahead = 0) noexcept {
    std::size_t c = 0;
    if constexpr (R <= wide_tile_rows)
      for (; c + 2 * w <= columns; c += 2 * w)
        tile<R, 2, Accumulate>(p, 1, attention_chunk, values.template columns<2>(c), tokens, out + c, out_stride,
                               ahead + c * ElementBytes);
    for (; c < columns; c += w)
      tile<R, 1, Accumulate>(p, 1, attention_chunk, values.template columns<1>(c), tokens, out + c, out_stride,
                             ahead + c * ElementBytes);
  }

  /// Calls `f` with R as a constant. @pre 1 <= rows <= R.
  template <std::size_t R = tile_rows, class F>
  static void with_rows(std::size_t rows, F&& f) noexcept {
    if constexpr (R > 1)
      if (rows < R)
        return with_rows<R - 1>(rows, f);
    f.template operator()<R>();
  }

  /// Scores to `e^(s - m)`; sets m and l. What the vector does not see becomes 0, up to `padded` tokens.
  static void softmax(float* s, std::size_t visible, std::size_t padded, float* m, float* l) noexcept {
    const vec nothing = V::set1(minus_infinity);
    vec largest = nothing;
    std::size_t t = 0;
    for (; t + w <= visible; t += w)
      largest = V::max(largest, V::load(s + t));
    if (t < visible)
      largest = V::max(largest, V::first_n(visible - t, V::load(s + t), nothing));
    *m = V::largest(largest);
    const vec top = V::set1(*m);
    vec sum = V::zero();
    for (t = 0; t < padded; t += w) {
      vec x = V::load(s + t);
      if (t + w > visible)
        x = V::first_n(t < visible ? visible - t : 0, x, nothing);
      const vec p = simd16_math<V>::exp(V::sub(x, top));
      V::store(s + t, p);
      sum = V::add(sum, p);
    }
    *l = V::sum(sum);
  }

  static address address_of(const std::byte* p) noexcept {
    return reinterpret_cast<address>(p);
  }

  /// The scales of a head are behind its elements, a cache line for each block of values or keys.
  template <kv_type Type>
  static void fetch_scales(address head, std::size_t size) noexcept {
    if constexpr (Type == kv_type::q8_0)
      for (std::size_t b = 0; b < kv_blocks(size); ++b)
        __builtin_prefetch(reinterpret_cast<const void*>(head + page * size + b * page * sizeof(std::uint16_t)));
  }

  /// Scores of one page that is converted as it is read.
  template <kv_type Type, std::size_t R>
  static void score_page(const attention_chunk_job& job, std::size_t t, std::size_t tokens, address ahead) noexcept {
    using reader = kv_reader<V, Type>;
    const std::byte* const head = job.pages[t / page] + job.key_offset;
    const std::size_t size = job.key_size, count = smaller(page, tokens - t);
    score_tile<R, false>(job.queries, reader::keys(head, size, 0), smaller(size, reader::key_rows), count,
                         job.scores + t, ahead);
    if constexpr (Type == kv_type::q8_0)
      for (std::size_t d = reader::key_rows; d < size; d += reader::key_rows)
        score_tile<R, true>(job.queries + d * R, reader::keys(head, size, d), smaller(size - d, reader::key_rows),
                            count, job.scores + t, ahead + d * page);
  }

  /// A single tile: keys and values are converted as they are read.
  template <kv_type Type>
  static void chunk_of_one_tile(const attention_chunk_job& job) noexcept {
    using reader = kv_reader<V, Type>;
    const std::size_t tokens = job.visible[job.vectors - 1], pages = divide_up(tokens, page);
    with_rows(job.vectors, [&]<std::size_t R>() {
      for (std::size_t p = 0; p < pages; ++p) {
        const std::size_t soon = p + reader::pages_ahead;
        const address ahead = soon < pages ? address_of(job.pages[soon] + job.key_offset)
                                           : address_of(job.pages[smaller(soon - pages, pages - 1)] + job.value_offset);
        fetch_scales<Type>(ahead, soon < pages ? job.key_size : job.value_size);
        score_page<Type, R>(job, p * page, tokens, ahead);
      }
    });
    softmax_all(job, 0, job.vectors, tokens);
    const std::size_t size = job.value_size;
    with_rows(job.vectors, [&]<std::size_t R>() {
      for (std::size_t p = 0; p < pages; ++p) {
        const std::size_t soon = p + reader::pages_ahead;
        const address ahead = soon < pages                     ? address_of(job.pages[soon] + job.value_offset)
                              : soon < pages + job.pages_after ? address_of(job.pages[soon] + job.key_offset)
                                                               : 0;
        fetch_scales<Type>(ahead, soon < pages ? size : job.key_size);
        const auto values = reader::values(job.pages[p] + job.value_offset, size, 0);
        const std::size_t count = smaller(page, tokens - p * page);
        if (p == 0)
          value_tile<R, false, reader::element_bytes>(job.scores, values, count, size, job.out.o, size, ahead);
        else
          value_tile<R, true, reader::element_bytes>(job.scores + p * page, values, count, size, job.out.o, size,
                                                     ahead);
      }
    });
  }

  static void softmax_all(const attention_chunk_job& job, std::size_t first, std::size_t last,
                          std::size_t tokens) noexcept {
    const std::size_t padded = round_up(tokens, w);
    for (std::size_t v = first; v < last; ++v) {
      float* const s = job.scores + v * attention_chunk;
      if (job.visible[v] > 0)
        softmax(s, job.visible[v], padded, job.out.m + v, job.out.l + v);
      else
        for (std::size_t t = 0; t < padded; t += w)
          V::store(s + t, V::zero());
    }
  }

  /// Calls `f.template operator()<R>(first vector, tokens that the tile sees, its packed queries)` for each tile.
  template <class F>
  static void for_tiles(const attention_chunk_job& job, F&& f) noexcept {
    for (std::size_t first = 0; first < job.vectors; first += tile_rows) {
      const std::size_t rows = smaller(tile_rows, job.vectors - first);
      const std::size_t tokens = job.visible[first + rows - 1];
      if (tokens > 0)
        with_rows(rows, [&]<std::size_t R>() {
          f.template operator()<R>(first, tokens, job.queries + first * job.key_size);
        });
    }
  }

  /// Writes N vectors of `count` rows as floats, `stride` apart.
  template <std::size_t N, class Rows>
  static void convert(Rows from, std::size_t count, float* to, std::size_t stride) noexcept {
    for (std::size_t i = 0; i < count; ++i, to += stride, from.next_row()) {
      from.begin_row();
#pragma GCC unroll 4
      for (std::size_t n = 0; n < N * V::regs; ++n)
        V::store_reg(to + n * (w / V::regs), from.load(n));
    }
  }

  template <kv_type Type>
  static void convert_keys(const attention_chunk_job& job, std::size_t t) noexcept {
    using reader = kv_reader<V, Type>;
    const std::byte* const head = job.pages[t / page] + job.key_offset;
    for (std::size_t d = 0; d < job.key_size; d += smaller(job.key_size, reader::key_rows))
      convert<2>(reader::keys(head, job.key_size, d).template columns<2>(0),
                 smaller(job.key_size - d, reader::key_rows), job.keys + d * page, page);
  }

  template <kv_type Type>
  static void convert_values(const attention_chunk_job& job, std::size_t tokens) noexcept {
    using reader = kv_reader<V, Type>;
    const std::size_t padded = padded_head(job.value_size);
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto from = reader::values(job.pages[t / page] + job.value_offset, job.value_size, t % page);
      float* const to = job.values + t * padded;
      std::size_t c = 0;
      for (; c + w <= job.value_size; c += w)
        convert<1>(from.template columns<1>(c), 1, to + c, 0);
      if (c < job.value_size) {
        typename reader::element rest[w] = {};
        for (std::size_t j = 0; c + j < job.value_size; ++j)
          rest[j] = from.at[c + j];
        auto columns = from.template columns<1>(c);
        columns.at = rest;
        convert<1>(columns, 1, to + c, 0);
      }
    }
  }

  template <kv_type Type>
  static void chunk(const attention_chunk_job& job) noexcept {
    if (job.vectors <= tile_rows && job.value_size % w == 0)
      return chunk_of_one_tile<Type>(job);
    const std::size_t tokens = job.visible[job.vectors - 1];
    const plain_rows<V, float> keys{job.keys, page};
    for (std::size_t t = 0; t < tokens; t += page) {
      convert_keys<Type>(job, t);
      for_tiles(job, [&]<std::size_t R>(std::size_t first, std::size_t visible, const float* queries) {
        if (visible > t)
          score_tile<R, false>(queries, keys, job.key_size, smaller(page, visible - t),
                               job.scores + first * attention_chunk + t);
      });
    }
    convert_values<Type>(job, tokens);
    const std::size_t padded = padded_head(job.value_size);
    const plain_rows<V, float> values{job.values, padded};
    for_tiles(job, [&]<std::size_t R>(std::size_t first, std::size_t visible, const float*) {
      softmax_all(job, first, first + R, visible);
      value_tile<R, false, sizeof(float)>(job.scores + first * attention_chunk, values, visible, padded,
                                          job.out.o + first * padded, padded);
    });
  }

  static void merge(const attention_state& state, const attention_state& later, const std::size_t* visible,
                    std::size_t vectors, std::size_t value_size) noexcept {
    const std::size_t padded = padded_head(value_size);
    for (std::size_t v = 0; v < vectors; ++v) {
      if (visible[v] == 0)
        continue;
      const float m = state.m[v] > later.m[v] ? state.m[v] : later.m[v];
      const vec a = simd16_math<V>::exp(V::set1(state.m[v] - m));
      const vec b = simd16_math<V>::exp(V::set1(later.m[v] - m));
      for (std::size_t c = v * padded; c < (v + 1) * padded; c += w)
        V::store(state.o + c, V::fma(V::load(later.o + c), b, V::mul(V::load(state.o + c), a)));
      state.l[v] = V::first(V::fma(V::set1(later.l[v]), b, V::mul(V::set1(state.l[v]), a)));
      state.m[v] = m;
    }
  }

  static void finish(const attention_state& state, std::size_t v, std::size_t value_size, float* out) noexcept {
    const vec factor = V::set1(1.0F / state.l[v]);
    const float* const o = state.o + v * padded_head(value_size);
    for (std::size_t c = 0; c < value_size; c += w) {
      const vec x = V::mul(V::load(o + c), factor);
      if (c + w <= value_size)
        V::store(out + c, x);
      else
        V::store_n(out + c, x, value_size - c);
    }
  }

  static constexpr attention_kernels table{
      pack_queries, {chunk<kv_type::f16>, chunk<kv_type::bf16>, chunk<kv_type::q8_0>}, merge, finish};
};

} // namespace tropilla::host
