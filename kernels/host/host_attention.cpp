// Divides the rotary embedding, writes to the KV cache and attention between workers.
#include "kernels/host/host_ops.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace tropilla::host {
namespace {

using half = std::uint16_t;

/// Query vectors that are computed together, at most: enough for keys and values that were converted once to be used
/// by many, few enough for their scores to stay in the second-level cache (48 KiB).
constexpr std::size_t max_block_vectors = 96;
constexpr std::size_t attention_worker_floats = host_scratch::attention_bytes / sizeof(float);
constexpr std::size_t shared_worker_floats = host_scratch::shared_bytes / sizeof(float);

constexpr std::size_t array_floats = 16; // arrays in the scratch are whole vectors of sixteen

/// Bytes from where a layer begins in a page to a head's keys and values.
std::size_t keys_of(kv_type type, const attention_shape& s, std::size_t head) noexcept {
  return head * kv_head_bytes(type, s.key_size);
}
std::size_t values_of(kv_type type, const attention_shape& s, std::size_t head) noexcept {
  return s.kv_heads * kv_head_bytes(type, s.key_size) + head * kv_head_bytes(type, s.value_size);
}

/// Stores the values of a key into one column.
template <class T>
void scatter(const T* from, std::size_t size, T* to) noexcept {
  for (std::size_t d = 0; d < size; ++d)
    to[d * kv_page_tokens] = from[d];
}

/// Stores one token's key at `head`, where the head's keys of a page begin.
void store_key(const elementwise_kernels& kernels, kv_type type, const float* key, std::size_t size, std::size_t token,
               std::byte* head) noexcept {
  if (type == kv_type::q8_0) {
    std::array<std::int8_t, largest_head> bytes;
    std::array<std::uint16_t, kv_blocks(largest_head)> scales;
    kernels.to_q8(key, bytes.data(), scales.data(), size);
    scatter(bytes.data(), size, reinterpret_cast<std::int8_t*>(head) + token);
    scatter(scales.data(), kv_blocks(size), reinterpret_cast<std::uint16_t*>(head + size * kv_page_tokens) + token);
  } else if (type == kv_type::bf16) {
    std::array<bf16, largest_head> rounded;
    kernels.to_bf16(key, rounded.data(), size);
    scatter(rounded.data(), size, reinterpret_cast<bf16*>(head) + token);
  } else {
    std::array<half, largest_head> rounded;
    kernels.to_half(key, rounded.data(), size);
    scatter(rounded.data(), size, reinterpret_cast<half*>(head) + token);
  }
}

/// Stores one token's value, likewise.
void store_value(const elementwise_kernels& kernels, kv_type type, const float* value, std::size_t size,
                 std::size_t token, std::byte* head) noexcept {
  if (type == kv_type::q8_0)
    kernels.to_q8(value, reinterpret_cast<std::int8_t*>(head) + token * size,
                  reinterpret_cast<std::uint16_t*>(head + size * kv_page_tokens) + token * kv_blocks(size), size);
  else if (type == kv_type::bf16)
    kernels.to_bf16(value, reinterpret_cast<bf16*>(head) + token * size, size);
  else
    kernels.to_half(value, reinterpret_cast<half*>(head) + token * size, size);
}

/// Floats of a state of `vectors` vectors, each array aligned.
std::size_t state_floats(std::size_t vectors, std::size_t value_size) noexcept {
  return 2 * round_up(vectors, array_floats) + vectors * padded_head(value_size);
}

attention_state state_at(float* base, std::size_t vectors) noexcept {
  const std::size_t line = round_up(vectors, array_floats);
  return {base, base + line, base + 2 * line};
}

/// A worker's scratch for attention.
struct worker_buffers {
  float* queries = nullptr;
  float* scores = nullptr;
  float* keys = nullptr;
  float* values = nullptr;
  attention_state state, later;

  [[nodiscard]] static std::size_t vectors_that_fit(const attention_shape& s) noexcept {
    const std::size_t fixed =
        s.key_size * kv_page_tokens + attention_chunk * padded_head(s.value_size) + std::size_t{6 * 16 + 16};
    const std::size_t each = s.key_size + attention_chunk + 2 * padded_head(s.value_size) + 4;
    return std::min(max_block_vectors, (attention_worker_floats - fixed) / each);
  }

  worker_buffers(float* base, const attention_shape& s, std::size_t vectors) noexcept {
    const auto take = [&base](std::size_t floats) {
      float* const at = base;
      base += round_up(floats, array_floats);
      return at;
    };
    keys = take(s.key_size * kv_page_tokens);
    values = take(attention_chunk * padded_head(s.value_size));
    scores = take(vectors * attention_chunk);
    queries = take(vectors * s.key_size);
    state = state_at(take(state_floats(vectors, s.value_size)), vectors);
    later = state_at(take(state_floats(vectors, s.value_size)), vectors);
  }
};

/// Some rows of one sequence, which share keys and values.
struct row_block {
  const sequence_rows* sequence = nullptr;
  std::size_t first = 0; ///< row of the sequence
  std::size_t rows = 0;

  [[nodiscard]] std::size_t last_position() const noexcept { return sequence->position + first + rows - 1; }
  [[nodiscard]] std::size_t chunks() const noexcept { return last_position() / attention_chunk + 1; }
};

std::size_t blocks_of(const sequence_rows& s, std::size_t block_rows) noexcept {
  return divide_up(s.rows, block_rows);
}

/// Block `index` of all sequences. @pre there are as many.
row_block block_at(std::span<const sequence_rows> sequences, std::size_t block_rows, std::size_t index) noexcept {
  const sequence_rows* s = sequences.data();
  for (; index >= blocks_of(*s, block_rows); ++s)
    index -= blocks_of(*s, block_rows);
  const std::size_t first = index * block_rows;
  return {s, first, std::min(block_rows, s->rows - first)};
}

/// Everything that a call of `attention` does not change.
class attention_call {
public:
  attention_call(const attention_kernels& kernels, const attention_shape& shape, const kv_layer& layer, const float* q,
                 std::size_t stride, float* out)
      : kernels_(kernels), shape_(shape), layer_(layer), group_(shape.heads / shape.kv_heads), q_(q), stride_(stride),
        out_(out) {}

  [[nodiscard]] std::size_t group() const noexcept { return group_; }

  void pack(const row_block& b, std::size_t kv_head, float* packed) const noexcept {
    const float* const from = q_ + (b.sequence->first_row + b.first) * stride_ + kv_head * group_ * shape_.key_size;
    kernels_.pack_queries(from, stride_, group_, b.rows * group_, shape_.key_size, shape_.scale, packed);
  }

  /// Computes one chunk of one kv head; fills `visible`.
  void chunk(const row_block& b, std::size_t kv_head, std::size_t chunk, const worker_buffers& buffers,
             const attention_state& out, std::size_t* visible) const noexcept {
    count_visible(b, chunk, visible);
    attention_chunk_job job;
    job.queries = buffers.queries;
    job.visible = visible;
    job.vectors = b.rows * group_;
    job.pages = b.sequence->pages + chunk * (attention_chunk / kv_page_tokens);
    const std::size_t all_pages = b.last_position() / kv_page_tokens + 1;
    const std::size_t end = (chunk + 1) * (attention_chunk / kv_page_tokens);
    job.pages_after = all_pages > end ? all_pages - end : 0;
    job.key_offset = layer_.offset + keys_of(layer_.type, shape_, kv_head);
    job.value_offset = layer_.offset + values_of(layer_.type, shape_, kv_head);
    job.key_size = shape_.key_size;
    job.value_size = shape_.value_size;
    job.scores = buffers.scores;
    job.keys = buffers.keys;
    job.values = buffers.values;
    job.out = out;
    kernels_.chunk[static_cast<std::size_t>(layer_.type)](job);
  }

  /// Tokens of a chunk that each vector sees.
  void count_visible(const row_block& b, std::size_t chunk, std::size_t* visible) const noexcept {
    const std::size_t begin = chunk * attention_chunk;
    for (std::size_t r = 0; r < b.rows; ++r) {
      const std::size_t end = b.sequence->position + b.first + r + 1;
      const std::size_t visible_of_row = end > begin ? std::min(end - begin, attention_chunk) : 0;
      for (std::size_t h = 0; h < group_; ++h)
        visible[r * group_ + h] = visible_of_row;
    }
  }

  void merge(const attention_state& state, const attention_state& later, const std::size_t* visible,
             std::size_t vectors) const noexcept {
    kernels_.merge(state, later, visible, vectors, shape_.value_size);
  }

  void finish(const row_block& b, std::size_t kv_head, const attention_state& state,
              std::size_t vector) const noexcept {
    const std::size_t row = b.sequence->first_row + b.first + vector / group_;
    const std::size_t head = kv_head * group_ + vector % group_;
    kernels_.finish(state, vector, shape_.value_size, out_ + (row * shape_.heads + head) * shape_.value_size);
  }

  /// All chunks of one kv head, one after another.
  void whole(const row_block& b, std::size_t kv_head, const worker_buffers& buffers) const noexcept {
    std::array<std::size_t, max_block_vectors> visible;
    const std::size_t vectors = b.rows * group_;
    pack(b, kv_head, buffers.queries);
    chunk(b, kv_head, 0, buffers, buffers.state, visible.data());
    for (std::size_t c = 1; c < b.chunks(); ++c) {
      chunk(b, kv_head, c, buffers, buffers.later, visible.data());
      merge(buffers.state, buffers.later, visible.data(), vectors);
    }
    for (std::size_t v = 0; v < vectors; ++v)
      finish(b, kv_head, buffers.state, v);
  }

private:
  const attention_kernels& kernels_;
  const attention_shape& shape_;
  const kv_layer& layer_;
  std::size_t group_;
  const float* q_;
  std::size_t stride_;
  float* out_;
};

/// Attention of one block whose context is divided between the workers: chunks are computed in waves that fit the
/// shared scratch, and after each the workers merge them in order, each worker its own heads.
void divided(worker_context& worker, const attention_call& call, const attention_shape& shape, const row_block& block,
             const worker_buffers& buffers, float* shared, std::size_t chunks_at_once) {
  std::array<std::size_t, max_block_vectors> visible;
  const std::size_t vectors = block.rows * call.group();
  const std::size_t slot = state_floats(vectors, shape.value_size);
  const auto partial = [&](std::size_t chunk, std::size_t kv_head) {
    return state_at(shared + (chunk * shape.kv_heads + kv_head) * slot, vectors);
  };
  // The state of a head is the slot of its first chunk; later waves leave that slot alone.
  for (std::size_t begin = 0; begin < block.chunks();) {
    const std::size_t room = begin == 0 ? chunks_at_once : chunks_at_once - 1;
    const std::size_t end = std::min(block.chunks(), begin + room);
    const std::size_t first_slot = begin == 0 ? 0 : 1;
    const std::size_t items = (end - begin) * shape.kv_heads;
    const std::size_t last = items * (worker.worker() + 1) / worker.workers();
    std::size_t packed = shape.kv_heads;
    for (std::size_t i = items * worker.worker() / worker.workers(); i < last; ++i) {
      const std::size_t kv_head = i / (end - begin);
      const std::size_t c = i % (end - begin);
      if (packed != kv_head)
        call.pack(block, packed = kv_head, buffers.queries);
      call.chunk(block, kv_head, begin + c, buffers, partial(first_slot + c, kv_head), visible.data());
    }
    worker.barrier();
    for (std::size_t kv_head = worker.worker(); kv_head < shape.kv_heads; kv_head += worker.workers()) {
      const auto state = partial(0, kv_head);
      for (std::size_t c = begin == 0 ? 1 : begin; c < end; ++c) {
        call.count_visible(block, c, visible.data());
        call.merge(state, partial(first_slot + c - begin, kv_head), visible.data(), vectors);
      }
      for (std::size_t v = 0; end == block.chunks() && v < vectors; ++v)
        call.finish(block, kv_head, state, v);
    }
    worker.barrier();
    begin = end;
  }
}

} // namespace

void host_ops::rope_and_append(float* q, const float* k, const float* v, std::size_t stride,
                               const attention_shape& shape, const rope_table& rope, const kv_layer& layer,
                               std::span<const sequence_rows> sequences) {
  const std::size_t units = shape.heads + 2 * shape.kv_heads; // of a row: heads of queries, keys and values
  std::array<float, largest_head> rotated;
  std::size_t before = 0; // units of the sequences that are done
  std::size_t rows = 0;
  for (const auto& s : sequences)
    rows += s.rows;
  const auto [first, last] = share_of(rows * units);
  for (const auto& s : sequences) {
    const std::size_t end = std::min(last, before + s.rows * units);
    for (std::size_t i = std::max(first, before); i < end; ++i) {
      const std::size_t r = (i - before) / units, unit = (i - before) % units;
      const std::size_t position = s.position + r;
      const std::size_t row = (s.first_row + r) * stride;
      const float* const cosines = rope.cos + position * (rope.dims / 2);
      const float* const sines = rope.sin + position * (rope.dims / 2);
      if (unit < shape.heads) {
        float* const head = q + row + unit * shape.key_size;
        kernels_.rows->rotate(head, head, shape.key_size, rope.dims, cosines, sines);
        continue;
      }
      std::byte* const in_page = s.pages[position / kv_page_tokens] + layer.offset;
      const std::size_t token = position % kv_page_tokens;
      if (unit < shape.heads + shape.kv_heads) {
        const std::size_t head = unit - shape.heads;
        kernels_.rows->rotate(k + row + head * shape.key_size, rotated.data(), shape.key_size, rope.dims, cosines,
                              sines);
        store_key(*kernels_.rows, layer.type, rotated.data(), shape.key_size, token,
                  in_page + keys_of(layer.type, shape, head));
      } else {
        const std::size_t head = unit - shape.heads - shape.kv_heads;
        store_value(*kernels_.rows, layer.type, v + row + head * shape.value_size, shape.value_size, token,
                    in_page + values_of(layer.type, shape, head));
      }
    }
    before += s.rows * units;
  }
  worker_.barrier();
}

void host_ops::attention(const float* q, std::size_t stride, const attention_shape& shape, const kv_layer& layer,
                         std::span<const sequence_rows> sequences, float* out) {
  const attention_call call(*kernels_.attention, shape, layer, q, stride, out);
  const std::size_t fit = worker_buffers::vectors_that_fit(shape);
  const std::size_t block_rows = std::max<std::size_t>(1, fit / call.group());
  const worker_buffers buffers(scratch_.attention(worker()), shape, block_rows * call.group());

  std::size_t blocks = 0;
  for (const auto& s : sequences)
    blocks += blocks_of(s, block_rows);
  const std::size_t items = blocks * shape.kv_heads;

  // With few pieces of work the context is divided, too. That needs a barrier more, so not for a single chunk.
  constexpr std::size_t enough_items_per_worker = 4;
  if (workers() > 1 && items < enough_items_per_worker * workers()) {
    for (std::size_t i = 0; i < blocks; ++i) {
      const auto block = block_at(sequences, block_rows, i);
      const std::size_t slot = shape.kv_heads * state_floats(block.rows * call.group(), shape.value_size);
      const std::size_t chunks_at_once = workers() * shared_worker_floats / slot;
      if (block.chunks() > 1 && chunks_at_once > 2) {
        divided(worker_, call, shape, block, buffers, scratch_.shared(workers()), chunks_at_once);
      } else {
        for (std::size_t kv_head = worker(); kv_head < shape.kv_heads; kv_head += workers())
          call.whole(block, kv_head, buffers);
      }
    }
    worker_.barrier();
    return;
  }
  // Later rows see more, so they go first.
  worker_.share(items, [&](std::size_t i) {
    call.whole(block_at(sequences, block_rows, blocks - 1 - i / shape.kv_heads), i % shape.kv_heads, buffers);
  });
  worker_.barrier();
}

} // namespace tropilla::host
