// The rotary embedding, the KV cache and attention.
//
// Attention: a block of four warps has one row, some of the query heads that share a kv head, and a part of the
// context. A warp takes a page at a time. For scores a lane is a token, for sums of values it is some of a value's
// numbers; what has been seen is kept as a maximum, a sum and values relative to the maximum (Milakov and Gimelshein,
// "Online normalizer calculation for softmax", 2018), and warps and parts are merged in order.
#include "kernels/cuda/kernel_parts.hpp"

#include <algorithm>
#include <cmath>

namespace tropilla::TROPILLA_CUDA_NS {
namespace {

constexpr auto page_tokens = static_cast<unsigned>(kv_page_tokens);
constexpr unsigned attention_warps = warps_of_block(4);
constexpr unsigned attention_threads = attention_warps * warp_size;
/// Query heads of a block: what they see is read once for all of them.
constexpr unsigned most_heads = 8;
/// Pages of a part of the context: enough that merging parts costs little beside them.
constexpr unsigned part_pages = 16;

/// One number of a key or value head in a page; `head` is where the head begins there.
template <kv_type Type>
struct kv_numbers {
  /// Of keys, `[size, 32]`: number `d` of token `t`.
  static __device__ float key(const std::byte* head, std::size_t size, unsigned d, unsigned t) {
    const std::size_t at = std::size_t{d} * kv_page_tokens + t;
    if constexpr (Type == kv_type::q8_0) {
      const auto* scales = reinterpret_cast<const std::uint16_t*>(head + size * kv_page_tokens);
      return static_cast<float>(reinterpret_cast<const std::int8_t*>(head)[at]) *
             to_float(scales[d / kv_block * kv_page_tokens + t]);
    } else {
      return wide(reinterpret_cast<const std::uint16_t*>(head)[at]);
    }
  }
  /// Of values, `[32, size]`.
  static __device__ float value(const std::byte* head, std::size_t size, unsigned d, unsigned t) {
    const std::size_t at = t * size + d;
    if constexpr (Type == kv_type::q8_0) {
      const auto* scales = reinterpret_cast<const std::uint16_t*>(head + size * kv_page_tokens);
      return static_cast<float>(reinterpret_cast<const std::int8_t*>(head)[at]) *
             to_float(scales[t * kv_blocks(size) + d / kv_block]);
    } else {
      return wide(reinterpret_cast<const std::uint16_t*>(head)[at]);
    }
  }
  static __device__ float wide(std::uint16_t bits) {
    return Type == kv_type::f16 ? to_float(bits) : bf16_to_float32(bits);
  }
};

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

/// The number of lane `lane` of a block of 32, quantised with the others: see `row_kernels::to_q8`.
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

/// One warp: one head of one row. Queries first, then keys, then values.
template <kv_type Type>
__global__ void __launch_bounds__(warp_size) append(float* q, const float* k, const float* v, std::size_t stride,
                                                    heads_of_layer h, rope_table rope, step_rows step) {
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

/// Where parts of the context leave what they saw: `[rows, heads, parts]` of m and l, and of `value_size` values.
struct partial_results {
  float* m;
  float* l;
  float* o;
  unsigned parts; ///< 1: there are none, and results go to `out`
};

/// What a warp has seen, of `H` query heads; lane i has values i, i + 32, ...
template <unsigned H, unsigned V>
struct seen {
  float m[H], l[H], o[H][V];

  __device__ seen() {
    for (unsigned h = 0; h < H; ++h) {
      m[h] = -INFINITY;
      l[h] = 0;
      for (unsigned j = 0; j < V; ++j)
        o[h][j] = 0;
    }
  }
};

/// `q` is `[heads, key_size]`, scaled, in shared memory; `H` of the heads count.
template <kv_type Type, unsigned H, unsigned V>
__device__ void see_page(seen<H, V>& s, const float* q, const heads_of_layer& h, const std::byte* keys,
                         const std::byte* values, unsigned tokens) {
  const unsigned lane = threadIdx.x % warp_size;
  float score[H];
  for (unsigned i = 0; i < H; ++i)
    score[i] = 0;
  for (unsigned d = 0; d < h.key_size; ++d) {
    const float key = kv_numbers<Type>::key(keys, h.key_size, d, lane);
    for (unsigned i = 0; i < H; ++i)
      score[i] = fmaf(q[i * h.key_size + d], key, score[i]);
  }
  for (unsigned i = 0; i < H; ++i) {
    const bool visible = lane < tokens;
    const float m = fmaxf(s.m[i], warp_max(visible ? score[i] : -INFINITY));
    const float before = expf(s.m[i] - m); // 0 for the first page
    score[i] = visible ? expf(score[i] - m) : 0.0F;
    s.l[i] = fmaf(s.l[i], before, warp_sum(score[i]));
    s.m[i] = m;
    for (unsigned j = 0; j < V; ++j)
      s.o[i][j] *= before;
  }
  for (unsigned t = 0; t < tokens; ++t) {
    float value[V];
    for (unsigned j = 0; j < V; ++j) {
      const unsigned d = lane + j * warp_size;
      value[j] = d < h.value_size ? kv_numbers<Type>::value(values, h.value_size, d, t) : 0.0F;
    }
    for (unsigned i = 0; i < H; ++i) {
      const float p = __shfl_sync(all_lanes, score[i], static_cast<int>(t));
      for (unsigned j = 0; j < V; ++j)
        s.o[i][j] = fmaf(p, value[j], s.o[i][j]);
    }
  }
}

/// The row's place in the grid is x, the kv head and a piece of its query heads y, the part of the context z.
template <kv_type Type, unsigned H, unsigned V>
__global__ void __launch_bounds__(attention_threads)
    attend(const float* q, std::size_t stride, heads_of_layer h, step_rows step, float* out, partial_results partial) {
  __shared__ float queries[H * cuda::largest_head];
  __shared__ float warp_m[attention_warps][H], warp_l[attention_warps][H], warp_o[attention_warps][H][V * warp_size];
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  const unsigned group = h.heads / h.kv_heads, pieces = (group + H - 1) / H;
  const unsigned kv_head = blockIdx.y / pieces, first = blockIdx.y % pieces * H;
  const unsigned count = group - first < H ? group - first : H;
  const unsigned row = blockIdx.x, head = kv_head * group + first;
  const row_place at = step.places[row];
  for (unsigned i = threadIdx.x; i < H * h.key_size; i += attention_threads)
    queries[i] = i < count * h.key_size ? q[row * stride + std::size_t{head} * h.key_size + i] * h.scale : 0.0F;
  __syncthreads();
  seen<H, V> s;
  const unsigned pages = at.position / page_tokens + 1;
  const unsigned each = (pages + partial.parts - 1) / partial.parts;
  const unsigned end = min((blockIdx.z + 1) * each, pages);
  for (unsigned p = blockIdx.z * each + warp; p < end; p += attention_warps) {
    const std::byte* const page = step.page_starts[at.first_page + p];
    const unsigned tokens = min(at.position + 1 - p * page_tokens, page_tokens);
    see_page<Type, H, V>(s, queries, h, page + h.keys(kv_head), page + h.values(kv_head), tokens);
  }
  for (unsigned i = 0; i < H; ++i) {
    if (lane == 0) {
      warp_m[warp][i] = s.m[i];
      warp_l[warp][i] = s.l[i];
    }
    for (unsigned j = 0; j < V; ++j)
      warp_o[warp][i][lane + j * warp_size] = s.o[i][j];
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count * h.value_size; i += attention_threads) {
    const unsigned of = i / h.value_size, d = i % h.value_size;
    float m = -INFINITY, l = 0, o = 0;
    for (unsigned w = 0; w < attention_warps; ++w)
      m = fmaxf(m, warp_m[w][of]);
    for (unsigned w = 0; w < attention_warps; ++w)
      if (warp_l[w][of] > 0) {
        const float factor = expf(warp_m[w][of] - m);
        l = fmaf(warp_l[w][of], factor, l);
        o = fmaf(warp_o[w][of][d], factor, o);
      }
    const std::size_t query = std::size_t{row} * h.heads + head + of;
    if (partial.parts == 1) {
      out[query * h.value_size + d] = o / l;
      continue;
    }
    const std::size_t place = query * partial.parts + blockIdx.z;
    partial.o[place * h.value_size + d] = o;
    if (d == 0) {
      partial.m[place] = m;
      partial.l[place] = l;
    }
  }
}

/// Merges the parts of one query head of one row.
__global__ void __launch_bounds__(warp_size) merge_parts(partial_results partial, unsigned value_size, float* out) {
  const std::size_t query = std::size_t{blockIdx.x} * gridDim.y + blockIdx.y;
  const std::size_t first = query * partial.parts;
  float m = -INFINITY, l = 0;
  for (unsigned p = 0; p < partial.parts; ++p)
    if (partial.l[first + p] > 0)
      m = fmaxf(m, partial.m[first + p]);
  for (unsigned p = 0; p < partial.parts; ++p)
    if (partial.l[first + p] > 0)
      l = fmaf(partial.l[first + p], expf(partial.m[first + p] - m), l);
  for (unsigned d = threadIdx.x; d < value_size; d += warp_size) {
    float o = 0;
    for (unsigned p = 0; p < partial.parts; ++p)
      if (partial.l[first + p] > 0)
        o = fmaf(partial.o[(first + p) * value_size + d], expf(partial.m[first + p] - m), o);
    out[query * value_size + d] = o / l;
  }
}

/// Parts of the context: several only where few rows would leave most of the GPU idle.
unsigned parts_for(std::size_t rows, std::uint32_t most_position) noexcept {
  const std::size_t pages = most_position / kv_page_tokens + 1;
  const std::size_t wanted = (pages + part_pages - 1) / part_pages;
  return static_cast<unsigned>(std::max<std::size_t>(1, std::min(wanted, cuda::most_partial_rows / rows)));
}

template <kv_type Type, unsigned H>
void attend_with(void* stream, dim3 grid, const float* q, std::size_t stride, const heads_of_layer& h,
                 const step_rows& step, float* out, const partial_results& partial) {
  if (h.value_size <= 64)
    launch(stream, grid, attention_threads, attend<Type, H, 2>, q, stride, h, step, out, partial);
  else if (h.value_size <= 128)
    launch(stream, grid, attention_threads, attend<Type, H, 4>, q, stride, h, step, out, partial);
  else
    launch(stream, grid, attention_threads, attend<Type, (H > 4 ? 4 : H), 8>, q, stride, h, step, out, partial);
}

template <kv_type Type>
void attend_type(void* stream, const float* q, std::size_t stride, const heads_of_layer& h, const step_rows& step,
                 float* out, const partial_results& partial) {
  const unsigned group = h.heads / h.kv_heads;
  const auto grid = [&](unsigned together) {
    return dim3(step.rows, h.kv_heads * ((group + together - 1) / together), partial.parts);
  };
  if (group <= 1)
    attend_with<Type, 1>(stream, grid(1), q, stride, h, step, out, partial);
  else if (group <= 2)
    attend_with<Type, 2>(stream, grid(2), q, stride, h, step, out, partial);
  else if (group <= 4 || h.value_size > 128)
    attend_with<Type, 4>(stream, grid(4), q, stride, h, step, out, partial);
  else
    attend_with<Type, most_heads>(stream, grid(most_heads), q, stride, h, step, out, partial);
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

void rope_and_append(void* stream, float* q, const float* k, const float* v, std::size_t stride,
                     const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                     const step_rows& step) {
  if (step.rows == 0)
    return;
  const dim3 grid(step.rows, static_cast<unsigned>(shape.heads + 2 * shape.kv_heads));
  with_kv_type(layer.type, [&]<kv_type Type>() {
    launch(stream, grid, warp_size, append<Type>, q, k, v, stride, heads_of_layer(shape, layer), rope, step);
  });
}

void attention(void* stream, const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
               const step_rows& step, std::uint32_t most_position, float* out, std::byte* scratch) {
  if (step.rows == 0)
    return;
  const heads_of_layer h(shape, layer);
  const unsigned parts = parts_for(step.rows, most_position);
  const std::size_t results = std::size_t{step.rows} * shape.heads * parts;
  auto* const floats = reinterpret_cast<float*>(scratch);
  const partial_results partial{floats, floats + results, floats + 2 * results, parts};
  with_kv_type(layer.type, [&]<kv_type Type>() { attend_type<Type>(stream, q, stride, h, step, out, partial); });
  if (parts > 1)
    launch(stream, dim3(step.rows, h.heads), warp_size, merge_parts, partial, h.value_size, out);
}

} // namespace tropilla::TROPILLA_CUDA_NS
