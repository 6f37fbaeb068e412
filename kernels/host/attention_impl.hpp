/// The kernels of `attention_kernels.hpp` over a type of sixteen floats (`simd16_*.hpp`).
///
/// Both products work on tiles of R query vectors by N vectors of sixteen tokens (or values), whose R x N sums stay in
/// registers. Pages are converted from half to float once and then used by all tiles; with a single tile (decoding)
/// they are converted on the way into registers instead.
#pragma once

#include "kernels/host/attention_kernels.hpp"
#include "kernels/host/simd16_math.hpp"

#include <limits>

namespace tropilla::host {

template <class V>
struct attention_kernels_of {
  using vec = typename V::vec;
  using half = std::uint16_t;
  using address = std::uintptr_t; ///< may lie outside of any object: only prefetched
  static constexpr std::size_t w = V::width;
  static constexpr std::size_t page = kv_page_tokens;
  static constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
  static_assert(page == 2 * w);

  static std::size_t smaller(std::size_t a, std::size_t b) noexcept { return a < b ? a : b; }

  static void pack_queries(const float* q, std::size_t stride, std::size_t group, std::size_t vectors,
                           std::size_t key_size, float scale, float* packed) noexcept {
    for (std::size_t first = 0; first < vectors; first += V::tile_rows) {
      const std::size_t rows = smaller(V::tile_rows, vectors - first);
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
  /// `ahead` is where halves that are laid out as `b` will be read next (0: not known): the processor's own
  /// prefetching ends at each page of the cache, which is half as long as what memory's latency would need.
  template <std::size_t R, std::size_t N, bool Accumulate, class T>
  static void tile(const float* a, std::size_t a_step, std::size_t a_stride, const T* b, std::size_t b_stride,
                   std::size_t count, float* out, std::size_t out_stride, address ahead) noexcept {
    using part = typename V::part;
    constexpr std::size_t parts = N * V::parts, size = w / V::parts;
    part sum[R][parts];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (std::size_t n = 0; n < parts; ++n)
        sum[r][n] = Accumulate ? V::load_part(out + r * out_stride + n * size) : V::part_of(0);
    for (std::size_t i = 0; i < count; ++i, a += a_step, b += b_stride) {
      if constexpr (sizeof(T) == sizeof(half)) {
        __builtin_prefetch(reinterpret_cast<const void*>(ahead));
        ahead += b_stride * sizeof(half);
      }
      // Registers are scarce on AVX2: the order keeps the shorter side of the tile in them, and one of the other.
      if constexpr (R < parts) {
        part factor[R];
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r)
          factor[r] = V::part_of(a[r * a_stride]);
#pragma GCC unroll 4
        for (std::size_t n = 0; n < parts; ++n) {
          const part column = V::load_part(b + n * size);
#pragma GCC unroll 16
          for (std::size_t r = 0; r < R; ++r)
            sum[r][n] = V::fma_part(factor[r], column, sum[r][n]);
        }
      } else {
        part column[parts];
#pragma GCC unroll 4
        for (std::size_t n = 0; n < parts; ++n)
          column[n] = V::load_part(b + n * size);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < R; ++r) {
          const part factor = V::part_of(a[r * a_stride]);
#pragma GCC unroll 4
          for (std::size_t n = 0; n < parts; ++n)
            sum[r][n] = V::fma_part(factor, column[n], sum[r][n]);
        }
      }
    }
#pragma GCC unroll 16
    for (std::size_t r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (std::size_t n = 0; n < parts; ++n)
        V::store_part(out + r * out_stride + n * size, sum[r][n]);
  }

  /// Scores of R vectors with one page of keys: `scores[r * attention_chunk + t]`. `ahead`: see `tile`.
  template <std::size_t R, class T>
  static void score_tile(const float* queries, const T* keys, std::size_t key_size, std::size_t tokens, float* scores,
                         address ahead = 0) noexcept {
    if constexpr (R <= V::wide_tile_rows) {
      tile<R, 2, false>(queries, R, 1, keys, page, key_size, scores, attention_chunk, ahead);
    } else {
      for (std::size_t t = 0; t < tokens; t += w)
        tile<R, 1, false>(queries, R, 1, keys + t, page, key_size, scores + t, attention_chunk, ahead);
    }
  }

  /// Weighted values of R vectors: `out[r][c] (+)= sum over t of p[r][t] * values[t][c]`, `columns` a multiple of w.
  template <std::size_t R, bool Accumulate, class T>
  static void value_tile(const float* p, const T* values, std::size_t value_stride, std::size_t tokens,
                         std::size_t columns, float* out, std::size_t out_stride, address ahead = 0) noexcept {
    std::size_t c = 0;
    if constexpr (R <= V::wide_tile_rows)
      for (; c + 2 * w <= columns; c += 2 * w)
        tile<R, 2, Accumulate>(p, 1, attention_chunk, values + c, value_stride, tokens, out + c, out_stride,
                               ahead + c * sizeof(half));
    for (; c < columns; c += w)
      tile<R, 1, Accumulate>(p, 1, attention_chunk, values + c, value_stride, tokens, out + c, out_stride,
                             ahead + c * sizeof(half));
  }

  /// Calls `f` with R as a constant. @pre 1 <= rows <= R.
  template <std::size_t R = V::tile_rows, class F>
  static void with_rows(std::size_t rows, F&& f) noexcept {
    if constexpr (R > 1)
      if (rows < R)
        return with_rows<R - 1>(rows, f);
    f.template operator()<R>();
  }

  /// Scores to `e^(s - m)`; sets m and l. What the vector does not see becomes 0, up to `padded` tokens.
  static void soften(float* s, std::size_t visible, std::size_t padded, float* m, float* l) noexcept {
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

  static const half* page_data(const attention_chunk_job& job, std::size_t index, std::size_t offset) noexcept {
    return reinterpret_cast<const half*>(job.pages[index] + offset);
  }

  static address address_of(const half* p) noexcept {
    return reinterpret_cast<address>(p);
  }

  /// A single tile: keys and values are converted as they are read.
  static void chunk_of_one_tile(const attention_chunk_job& job) noexcept {
    const std::size_t tokens = job.visible[job.vectors - 1];
    with_rows(job.vectors, [&]<std::size_t R>() {
      for (std::size_t t = 0; t < tokens; t += page) {
        const half* const ahead =
            t + page < tokens ? page_data(job, t / page + 1, job.key_offset) : page_data(job, 0, job.value_offset);
        score_tile<R>(job.queries, page_data(job, t / page, job.key_offset), job.key_size, smaller(page, tokens - t),
                      job.scores + t, address_of(ahead));
      }
    });
    soften_all(job, 0, job.vectors, tokens);
    const std::size_t size = job.value_size;
    with_rows(job.vectors, [&]<std::size_t R>() {
      for (std::size_t t = 0; t < tokens; t += page) {
        const half* const values = page_data(job, t / page, job.value_offset);
        const address ahead = t + page < tokens     ? address_of(page_data(job, t / page + 1, job.value_offset))
                              : job.next != nullptr ? reinterpret_cast<address>(job.next) + job.key_offset
                                                    : 0;
        const std::size_t count = smaller(page, tokens - t);
        if (t == 0)
          value_tile<R, false>(job.scores, values, size, count, size, job.out.o, size, ahead);
        else
          value_tile<R, true>(job.scores + t, values, size, count, size, job.out.o, size, ahead);
      }
    });
  }

  static void soften_all(const attention_chunk_job& job, std::size_t first, std::size_t last,
                         std::size_t tokens) noexcept {
    const std::size_t padded = (tokens + w - 1) / w * w;
    for (std::size_t v = first; v < last; ++v) {
      float* const s = job.scores + v * attention_chunk;
      if (job.visible[v] > 0)
        soften(s, job.visible[v], padded, job.out.m + v, job.out.l + v);
      else
        for (std::size_t t = 0; t < padded; t += w)
          V::store(s + t, V::zero());
    }
  }

  /// Calls `f.template operator()<R>(first vector, tokens that the tile sees, its packed queries)` for each tile.
  template <class F>
  static void for_tiles(const attention_chunk_job& job, F&& f) noexcept {
    for (std::size_t first = 0; first < job.vectors; first += V::tile_rows) {
      const std::size_t rows = smaller(V::tile_rows, job.vectors - first);
      const std::size_t tokens = job.visible[first + rows - 1];
      if (tokens > 0)
        with_rows(rows, [&]<std::size_t R>() {
          f.template operator()<R>(first, tokens, job.queries + first * job.key_size);
        });
    }
  }

  static void convert_values(const attention_chunk_job& job, std::size_t tokens) noexcept {
    const std::size_t padded = padded_head(job.value_size);
    for (std::size_t t = 0; t < tokens; ++t) {
      const half* const from = page_data(job, t / page, job.value_offset) + (t % page) * job.value_size;
      float* const to = job.values + t * padded;
      std::size_t c = 0;
      for (; c + w <= job.value_size; c += w)
        V::store(to + c, V::load_half(from + c));
      if (c < job.value_size) {
        half rest[w] = {};
        for (std::size_t j = 0; c + j < job.value_size; ++j)
          rest[j] = from[c + j];
        V::store(to + c, V::load_half(rest));
      }
    }
  }

  static void chunk(const attention_chunk_job& job) noexcept {
    if (job.vectors <= V::tile_rows && job.value_size % w == 0)
      return chunk_of_one_tile(job);
    const std::size_t tokens = job.visible[job.vectors - 1];
    for (std::size_t t = 0; t < tokens; t += page) {
      const half* const keys = page_data(job, t / page, job.key_offset);
      for (std::size_t i = 0; i < job.key_size * page; i += w)
        V::store(job.keys + i, V::load_half(keys + i));
      for_tiles(job, [&]<std::size_t R>(std::size_t first, std::size_t seen, const float* queries) {
        if (seen > t)
          score_tile<R>(queries, job.keys, job.key_size, smaller(page, seen - t),
                        job.scores + first * attention_chunk + t);
      });
    }
    convert_values(job, tokens);
    const std::size_t padded = padded_head(job.value_size);
    for_tiles(job, [&]<std::size_t R>(std::size_t first, std::size_t seen, const float*) {
      soften_all(job, first, first + R, seen);
      value_tile<R, false>(job.scores + first * attention_chunk, job.values, padded, seen, padded,
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

  static constexpr attention_kernels table{pack_queries, chunk, merge, finish};
};

} // namespace tropilla::host
