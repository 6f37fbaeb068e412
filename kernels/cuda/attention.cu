// CUDA kernels for the rotary embedding, the KV cache and attention.
//
// Attention: a warp has eight queries, which are the heads that share a kv head, of one row or of some that follow each
// other. Keys and values are the first operand of `mma` as they lie in a page: keys number by number, each for the
// page's 32 tokens, values token by token. So queries are columns throughout: of the scores (tokens by queries), which
// are transposed to become the second operand of the sums of values (numbers by queries).
//
// A query's bits do not depend on the others, nor on how its context is divided: it is cut into splits of
// `attention_split_pages`. A split's pages are read in order, with a running maximum (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018), and splits are merged in order, by the warp that has read all of them or,
// where rows are few and every split has a warp, by a kernel after them.
#include "kernels/cuda/dispatch.hpp"
#include "kernels/cuda/mma.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <cmath>

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr auto page_tokens = static_cast<unsigned>(kv_page_tokens);
constexpr auto block_numbers = static_cast<unsigned>(kv_block); // that share a scale in q8_0

/// A shape as kernels want it, and where a layer's heads lie in a page.
struct heads_of_layer {
  unsigned heads, kv_heads, key_size, value_size;
  float scale;
  std::size_t offset, key_bytes, value_bytes;

  heads_of_layer(const attention_shape& s, const kv_layer& layer)
      : heads(static_cast<unsigned>(s.heads)), kv_heads(static_cast<unsigned>(s.kv_heads)),
        key_size(static_cast<unsigned>(s.key_size)), value_size(static_cast<unsigned>(s.value_size)), scale(s.scale),
        offset(layer.offset), key_bytes(kv_head_bytes(layer.type, s.key_size)),
        value_bytes(kv_head_bytes(layer.type, s.value_size)) {}

  __device__ std::size_t keys(unsigned kv_head) const { return offset + kv_head * key_bytes; }
  __device__ std::size_t values(unsigned kv_head) const {
    return offset + kv_heads * key_bytes + kv_head * value_bytes;
  }
};

// -- rotating and appending ------------------------------------------------------------------------------------------

/// The number of lane `lane` of a block of 32, quantised with the others: see `elementwise_kernels::to_q8`.
struct kv_quantised {
  std::int8_t q;
  std::uint16_t scale;
};
__device__ kv_quantised quantise_block(float x) {
  constexpr float largest_half = 65504.0F;
  const float wanted = fminf(warp_max(fabsf(x)) / 127.0F, largest_half);
  const std::uint16_t half = to_half(wanted);
  const float scale = to_float(half);
  const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
  const float q = fminf(fmaxf(rintf(x * inverse), -127.0F), 127.0F);
  return {static_cast<std::int8_t>(q), half};
}

/// Number `d` of a head, rotated.
__device__ float rotated(const float* head, unsigned d, unsigned dims, const float* cosines, const float* sines) {
  if (d >= dims)
    return head[d];
  const float c = cosines[d / 2], s = sines[d / 2];
  return d % 2 == 0 ? head[d] * c - head[d + 1] * s : head[d - 1] * s + head[d] * c;
}

/// Rotates and stores one head of one row per warp. Queries come first, then keys, then values.
template <kv_type Type>
__global__ void __launch_bounds__(warp_size) append(float* q, const float* k, const float* v, std::size_t stride,
                                                    heads_of_layer h, rope_table rope, attention_metadata step) {
  griddepcontrol_wait();
  const unsigned lane = threadIdx.x, row = blockIdx.x, unit = blockIdx.y;
  const row_place at = step.places[row];
  const auto dims = static_cast<unsigned>(rope.dims);
  const float* const cosines = rope.cos + std::size_t{at.position} * (dims / 2);
  const float* const sines = rope.sin + std::size_t{at.position} * (dims / 2);
  if (unit < h.heads) {
    float* const head = q + row * stride + std::size_t{unit} * h.key_size;
    for (unsigned pair = lane; 2 * pair + 1 < h.key_size && 2 * pair < dims; pair += warp_size) {
      const float even = rotated(head, 2 * pair, dims, cosines, sines);
      const float odd = rotated(head, 2 * pair + 1, dims, cosines, sines);
      head[2 * pair] = even;
      head[2 * pair + 1] = odd;
    }
    return;
  }
  std::byte* const page = step.page_starts[at.first_page + at.position / kv_page_tokens];
  const unsigned token = at.position % page_tokens;
  const bool is_key = unit < h.heads + h.kv_heads;
  const unsigned kv_head = unit - h.heads - (is_key ? 0 : h.kv_heads);
  const unsigned size = is_key ? h.key_size : h.value_size;
  std::byte* const to = page + (is_key ? h.keys(kv_head) : h.values(kv_head));
  const float* const from = (is_key ? k : v) + row * stride + std::size_t{kv_head} * size;
  for (unsigned b = 0; b < size; b += warp_size) { // whole warps: blocks are quantised together
    const unsigned d = b + lane;
    float x = 0;
    if (d < size)
      x = is_key ? rotated(from, d, dims, cosines, sines) : from[d];
    const std::size_t place = is_key ? std::size_t{d} * kv_page_tokens + token : std::size_t{token} * size + d;
    if constexpr (Type == kv_type::q8_0) {
      const kv_quantised stored = quantise_block(x);
      if (d < size)
        reinterpret_cast<std::int8_t*>(to)[place] = stored.q;
      if (lane == 0) {
        auto* const scales = reinterpret_cast<std::uint16_t*>(to + std::size_t{size} * kv_page_tokens);
        constexpr auto columns = static_cast<unsigned>(kv_block);
        const unsigned block = b / columns;
        scales[is_key ? block * kv_page_tokens + token : token * kv_blocks(size) + block] = stored.scale;
      }
    } else if (d < size) {
      constexpr float largest_bf16 = 3.3895314e38F;
      reinterpret_cast<std::uint16_t*>(to)[place] =
          Type == kv_type::f16 ? to_half(x) : to_bf16(fminf(fmaxf(x, -largest_bf16), largest_bf16));
    }
  }
}

// -- attention -------------------------------------------------------------------------------------------------------

constexpr unsigned attention_warps = warps_of_block(4), attention_threads = attention_warps * warp_size;
constexpr auto split_pages = static_cast<unsigned>(cuda::attention_split_pages);

/// Four neighbouring numbers of keys or values as two words of halves. Of q8_0 they are the integers: scales come
/// later.
template <kv_type Type>
struct kv_numbers {
  static constexpr bool bf16 = Type == kv_type::bf16;
  static constexpr bool scaled = Type == kv_type::q8_0;

  /// Number `at` of the head and the three after it, of which `there` exist.
  static __device__ uint2 load(const std::byte* head, std::size_t at, unsigned there, bool aligned) {
    if (there == 0)
      return {0, 0};
    if constexpr (scaled) {
      const auto* const p = reinterpret_cast<const std::int8_t*>(head) + at;
      unsigned word = 0;
      if (aligned)
        word = *reinterpret_cast<const unsigned*>(p);
      else
        for (unsigned i = 0; i < there && i < 4; ++i)
          word |= static_cast<unsigned>(static_cast<std::uint8_t>(p[i])) << (8 * i);
      const auto number = [word](unsigned i) { return static_cast<float>(static_cast<std::int8_t>(word >> (8 * i))); };
      return {pack_halves<false>(number(0), number(1)), pack_halves<false>(number(2), number(3))};
    } else {
      const auto* const p = reinterpret_cast<const std::uint16_t*>(head) + at;
      if (aligned)
        return *reinterpret_cast<const uint2*>(p);
      std::uint16_t number[4] = {};
      for (unsigned i = 0; i < there && i < 4; ++i)
        number[i] = p[i];
      return {number[0] | static_cast<unsigned>(number[1]) << 16, number[2] | static_cast<unsigned>(number[3]) << 16};
    }
  }
  /// Scales lie behind a head's numbers.
  static __device__ const std::uint16_t* scales(const std::byte* head, unsigned size) {
    return reinterpret_cast<const std::uint16_t*>(head + std::size_t{size} * kv_page_tokens);
  }
};

/// Four words of four columns each as the first operand: rows 2 g and 2 g + 1 of the lane's.
__device__ inline void rows_of_columns(unsigned (&a)[4], unsigned w0, unsigned w1, unsigned w2, unsigned w3) {
  a[0] = low_halves(w0, w1);
  a[1] = high_halves(w0, w1);
  a[2] = low_halves(w2, w3);
  a[3] = high_halves(w2, w3);
}

/// Online-softmax state (m, l, o) of one warp. Lane 4 g + t has queries 2 t and 2 t + 1. Of each 32 numbers of a value
/// it has 4 g and 4 g + 1 (first tile) and the two after them (second), for both queries.
template <unsigned Blocks>
struct online_softmax {
  float m[2], l[2], o[2 * Blocks][4];

  __device__ online_softmax() {
    for (unsigned i = 0; i < 2; ++i) {
      m[i] = -INFINITY;
      l[i] = 0;
    }
    TROPILLA_UNROLL
    for (unsigned tile = 0; tile < 2 * Blocks; ++tile)
      for (unsigned i = 0; i < 4; ++i)
        o[tile][i] = 0;
  }
};

/// The greater of two maxima, and the factors of sums relative to each. @pre `second` is a number
struct merged_maximum {
  float m, first, second;

  __device__ merged_maximum(float m1, float m2) : m(fmaxf(m1, m2)), first(expf(m1 - m)), second(expf(m2 - m)) {}
};
__device__ inline float merged_sum(float first, float second, const merged_maximum& by) {
  return fmaf(first, by.first, second * by.second);
}

/// A warp's queries, and where they stand.
struct warp_queries {
  unsigned kv_head;
  unsigned rows, heads;     ///< of the tile
  unsigned present;         ///< of `heads`: the last piece of a group may have fewer
  unsigned first_row, head; ///< the first ones
  unsigned last_position;   ///< of its rows

  /// Whether query `n` exists.
  [[nodiscard]] __device__ bool has(unsigned n) const { return n / heads < rows && n % heads < present; }
  [[nodiscard]] __device__ unsigned row(unsigned n) const { return first_row + n / heads; }
  [[nodiscard]] __device__ unsigned head_of(unsigned n) const { return head + n % heads; }
};

template <kv_type Type, unsigned Blocks>
struct attention_tile {
  using numbers = kv_numbers<Type>;
  static constexpr unsigned halves = 2 * Blocks; // sixteens of a key

  const heads_of_layer& h;
  unsigned lane = threadIdx.x % warp_size, g = lane / 4, t = lane % 4;
  unsigned q[halves][2]; ///< the query g
  int position[2];       ///< of queries 2 t and 2 t + 1; -1: sees nothing

  __device__ attention_tile(const heads_of_layer& layer, const warp_queries& w, const float* queries,
                            std::size_t stride, const attention_metadata& step)
      : h(layer) {
    const bool there = w.has(g);
    const float* const from = queries + (there ? w.row(g) * stride + std::size_t{w.head_of(g)} * h.key_size : 0);
    TROPILLA_UNROLL
    for (unsigned k = 0; k < halves; ++k) {
      float number[4];
      for (unsigned j = 0; j < 4; ++j) {
        const unsigned d = 16 * k + 4 * j + t;
        number[j] = there && d < h.key_size ? from[d] * h.scale : 0.0F;
      }
      q[k][0] = pack_halves<numbers::bf16>(number[0], number[1]);
      q[k][1] = pack_halves<numbers::bf16>(number[2], number[3]);
    }
    for (unsigned i = 0; i < 2; ++i)
      position[i] = w.has(2 * t + i) ? static_cast<int>(step.places[w.row(2 * t + i)].position) : -1;
  }

  /// Computes the scores of a page: of tokens 4 g + 2 tile (i = 0, 1) and the one after it, of the lane's two queries.
  __device__ void score(const std::byte* keys, float (&s)[2][4]) const {
    for (unsigned tile = 0; tile < 2; ++tile)
      for (unsigned i = 0; i < 4; ++i)
        s[tile][i] = 0;
    TROPILLA_UNROLL
    for (unsigned b = 0; b < Blocks; ++b) {
      if (b * block_numbers >= h.key_size)
        break;
      float of_block[2][4] = {};
      float(&to)[2][4] = numbers::scaled ? of_block : s;
      for (unsigned k = 2 * b; k < 2 * b + 2; ++k) {
        uint2 w[4];
        for (unsigned j = 0; j < 4; ++j) {
          const unsigned d = 16 * k + 4 * j + t;
          w[j] = numbers::load(keys, std::size_t{d} * kv_page_tokens + 4 * g, d < h.key_size ? 4 : 0, true);
        }
        unsigned a[4];
        rows_of_columns(a, w[0].x, w[1].x, w[2].x, w[3].x);
        multiply_halves<numbers::bf16>(to[0], a, q[k]);
        rows_of_columns(a, w[0].y, w[1].y, w[2].y, w[3].y);
        multiply_halves<numbers::bf16>(to[1], a, q[k]);
      }
      if constexpr (numbers::scaled) {
        const std::uint16_t* const scales = numbers::scales(keys, h.key_size) + b * kv_page_tokens + 4 * g;
        for (unsigned tile = 0; tile < 2; ++tile)
          for (unsigned i = 0; i < 4; ++i)
            s[tile][i] = fmaf(of_block[tile][i], to_float(scales[2 * tile + i / 2]), s[tile][i]);
      }
    }
  }

  /// Attends to page `page` of the context; nothing is behind `end` of its tokens yet.
  __device__ void see(online_softmax<Blocks>& so_far, const std::byte* keys, const std::byte* values, unsigned page,
                      unsigned end) const {
    float p[2][4];
    score(keys, p);
    for (unsigned i = 0; i < 2; ++i) {
      const int tokens = position[i] + 1 - static_cast<int>(page * page_tokens); // that it sees of the page, or more
      const auto visible = [&](unsigned tile, unsigned j) { return static_cast<int>(4 * g + 2 * tile + j) < tokens; };
      float m = -INFINITY;
      for (unsigned tile = 0; tile < 2; ++tile)
        for (unsigned j = 0; j < 2; ++j)
          m = fmaxf(m, visible(tile, j) ? p[tile][2 * j + i] : -INFINITY);
      for (unsigned distance = 4; distance < warp_size; distance *= 2)
        m = fmaxf(m, __shfl_xor_sync(all_lanes, m, static_cast<int>(distance)));
      const bool sees = tokens > 0;
      const float greatest = fmaxf(so_far.m[i], m);
      const float before = sees ? expf(so_far.m[i] - greatest) : 1.0F;
      float sum = 0;
      for (unsigned tile = 0; tile < 2; ++tile)
        for (unsigned j = 0; j < 2; ++j) {
          float& x = p[tile][2 * j + i];
          x = visible(tile, j) ? expf(x - greatest) : 0.0F;
          sum += x;
        }
      for (unsigned distance = 4; distance < warp_size; distance *= 2)
        sum += __shfl_xor_sync(all_lanes, sum, static_cast<int>(distance));
      so_far.l[i] = fmaf(so_far.l[i], before, sum);
      so_far.m[i] = greatest;
      TROPILLA_UNROLL
      for (unsigned tile = 0; tile < 2 * Blocks; ++tile) {
        so_far.o[tile][i] *= before;
        so_far.o[tile][2 + i] *= before;
      }
    }
    unsigned b[2][2]; // of each tile of tokens
    if constexpr (!numbers::scaled)
      weigh(p, b);
    TROPILLA_UNROLL
    for (unsigned block = 0; block < Blocks; ++block) {
      if (block * block_numbers >= h.value_size)
        break;
      if constexpr (numbers::scaled) {
        const std::uint16_t* const scales = numbers::scales(values, h.value_size) + block;
        float scaled[2][4];
        for (unsigned tile = 0; tile < 2; ++tile)
          for (unsigned i = 0; i < 4; ++i) {
            const unsigned token = 4 * g + 2 * tile + i / 2;
            scaled[tile][i] = token < end ? p[tile][i] * to_float(scales[token * kv_blocks(h.value_size)]) : 0.0F;
          }
        weigh(scaled, b);
      }
      const unsigned first = block * block_numbers + 4 * g;
      const bool aligned = h.value_size % 4 == 0;
      for (unsigned step = 0; step < 2; ++step) {
        uint2 v[4];
        for (unsigned j = 0; j < 4; ++j) {
          const unsigned token = 8 * t + 4 * (j % 2) + 2 * step + j / 2;
          const unsigned there = token < end && first < h.value_size ? h.value_size - first : 0;
          v[j] = numbers::load(values, std::size_t{token} * h.value_size + first, there, aligned);
        }
        unsigned a[4];
        rows_of_columns(a, v[0].x, v[1].x, v[2].x, v[3].x);
        multiply_halves<numbers::bf16>(so_far.o[2 * block], a, b[step]);
        rows_of_columns(a, v[0].y, v[1].y, v[2].y, v[3].y);
        multiply_halves<numbers::bf16>(so_far.o[2 * block + 1], a, b[step]);
      }
    }
  }

  /// The weights of values: of tile `i`, tokens 8 t + 2 i and 8 t + 4 + 2 i, and those after them, of query g.
  static __device__ void weigh(const float (&p)[2][4], unsigned (&b)[2][2]) {
    for (unsigned tile = 0; tile < 2; ++tile)
      for (unsigned j = 0; j < 2; ++j)
        b[tile][j] = transpose(pack_halves<numbers::bf16>(p[tile][2 * j], p[tile][2 * j + 1]));
  }

  static __device__ void merge(online_softmax<Blocks>& all, const online_softmax<Blocks>& split) {
    for (unsigned i = 0; i < 2; ++i) {
      if (!(split.l[i] > 0))
        continue;
      const merged_maximum by(all.m[i], split.m[i]);
      all.m[i] = by.m;
      all.l[i] = merged_sum(all.l[i], split.l[i], by);
      TROPILLA_UNROLL
      for (unsigned tile = 0; tile < 2 * Blocks; ++tile)
        for (unsigned j = i; j < 4; j += 2)
          all.o[tile][j] = merged_sum(all.o[tile][j], split.o[tile][j], by);
    }
  }

  /// Calls `f(query, its place in the lane, number, o)` for what the lane has.
  template <class F>
  __device__ void each(const online_softmax<Blocks>& s, const warp_queries& w, F f) const {
    TROPILLA_UNROLL
    for (unsigned tile = 0; tile < 2 * Blocks; ++tile)
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned n = 2 * t + i % 2, d = tile / 2 * block_numbers + 4 * g + tile % 2 * 2 + i / 2;
        if (w.has(n) && d < h.value_size)
          f(n, i % 2, d, s.o[tile][i]);
      }
  }
};

/// The results of splits of contexts: `[slots, heads]`, and `value_size` values of each.
struct partial_results {
  float* m;
  float* l;
  float* o;
};

/// Computes attention, an item per warp; kv heads and pieces of their query heads are y.
template <kv_type Type, unsigned Blocks>
__global__ void __launch_bounds__(attention_threads)
    attend(const float* q, std::size_t stride, heads_of_layer h, attention_metadata step, float* out,
           partial_results partial) {
  griddepcontrol_wait();
  const unsigned number = blockIdx.x * attention_warps + threadIdx.x / warp_size;
  if (number >= step.item_count)
    return;
  const attention_item item = step.items[number];
  if (item.rows == 0)
    return;
  const unsigned group = h.heads / h.kv_heads, heads = cuda::attention_tile_heads(group);
  const unsigned pieces = divide_up(group, heads), piece = blockIdx.y % pieces;
  warp_queries w{};
  w.kv_head = blockIdx.y / pieces;
  w.rows = item.rows;
  w.heads = heads;
  w.present = min(heads, group - piece * heads);
  w.first_row = item.first_row;
  w.head = w.kv_head * group + piece * heads;
  w.last_position = step.places[item.first_row + item.rows - 1].position;
  const attention_tile<Type, Blocks> a(h, w, q, stride, step);
  std::byte* const* const pages = step.page_starts + step.places[item.first_row].first_page;
  const unsigned page_end = w.last_position / page_tokens + 1;
  online_softmax<Blocks> all;
  for (unsigned split = item.first_split; split < item.first_split + item.splits; ++split) {
    online_softmax<Blocks> of_split;
    for (unsigned page = split * split_pages; page < min((split + 1) * split_pages, page_end); ++page)
      a.see(of_split, pages[page] + h.keys(w.kv_head), pages[page] + h.values(w.kv_head), page,
            min(w.last_position + 1 - page * page_tokens, page_tokens));
    if (item.slot == cuda::no_slot) {
      a.merge(all, of_split);
      continue;
    }
    a.each(of_split, w, [&](unsigned n, unsigned i, unsigned d, float o) { // it has one split and one row
      const std::size_t place = std::size_t{item.slot} * h.heads + w.head_of(n);
      partial.o[place * h.value_size + d] = o;
      if (d == 0) {
        partial.m[place] = of_split.m[i];
        partial.l[place] = of_split.l[i];
      }
    });
  }
  if (item.slot == cuda::no_slot)
    a.each(all, w, [&](unsigned n, unsigned i, unsigned d, float o) {
      out[(std::size_t{w.row(n)} * h.heads + w.head_of(n)) * h.value_size + d] = o / all.l[i];
    });
}

/// Merges the splits of one query head of one row, where it left any.
__global__ void __launch_bounds__(warp_size)
    merge_splits(partial_results partial, heads_of_layer h, attention_metadata step, float* out) {
  griddepcontrol_wait();
  const row_place at = step.places[blockIdx.x];
  for (unsigned d = threadIdx.x; at.splits > 0 && d < h.value_size; d += warp_size) {
    float m = -INFINITY, l = 0, o = 0;
    for (unsigned split = 0; split < at.splits; ++split) {
      const std::size_t place = std::size_t{at.first_slot + split} * h.heads + blockIdx.y;
      const merged_maximum by(m, partial.m[place]);
      m = by.m;
      l = merged_sum(l, partial.l[place], by);
      o = merged_sum(o, partial.o[place * h.value_size + d], by);
    }
    out[(std::size_t{blockIdx.x} * h.heads + blockIdx.y) * h.value_size + d] = o / l;
  }
}

template <class F>
void with_kv_type(kv_type type, F f) {
  if (type == kv_type::q8_0)
    f.template operator()<kv_type::q8_0>();
  else if (type == kv_type::bf16)
    f.template operator()<kv_type::bf16>();
  else
    f.template operator()<kv_type::f16>();
}

} // namespace

void launch(void* stream, const call::rope_and_append& c) {
  if (c.step.rows == 0)
    return;
  const dim3 grid(c.step.rows, static_cast<unsigned>(c.shape.heads + 2 * c.shape.kv_heads));
  with_kv_type(c.layer.type, [&]<kv_type Type>() {
    launch(stream, grid, warp_size, append<Type>, c.q, c.k, c.v, c.stride, heads_of_layer(c.shape, c.layer), c.rope,
           c.step);
  });
}

void launch(void* stream, const call::attention& c) {
  const attention_metadata& step = c.step;
  if (step.rows == 0)
    return;
  const heads_of_layer h(c.shape, c.layer);
  const std::size_t results = std::size_t{step.slots} * h.heads;
  auto* const floats = reinterpret_cast<float*>(c.scratch);
  const partial_results partial{floats, floats + results, floats + 2 * results};
  const unsigned group = h.heads / h.kv_heads, heads = cuda::attention_tile_heads(group);
  const dim3 grid(divide_up(step.item_count, attention_warps), h.kv_heads * divide_up(group, heads));
  with_kv_type(c.layer.type, [&]<kv_type Type>() {
    const auto launch_attend = [&]<unsigned Blocks>() {
      launch(stream, grid, attention_threads, attend<Type, Blocks>, c.q, c.stride, h, step, c.out, partial);
    };
    const unsigned size = std::max(h.key_size, h.value_size);
    if (size <= 64)
      launch_attend.template operator()<2>();
    else if (size <= 128)
      launch_attend.template operator()<4>();
    else
      launch_attend.template operator()<cuda::largest_head / kv_block>();
  });
  if (step.slots > 0)
    launch(stream, dim3(step.rows, h.heads), warp_size, merge_splits, partial, h, step, c.out);
}

} // namespace tropilla::TROPILLA_CUDA_NS
