// Writes random-weight models of well-known shapes, on all cores, without holding one in memory.
#include "src/model/synth.hpp"

#include "src/model/gguf_writer.hpp"
#include "src/model/llama_config.hpp"
#include "src/model/synth_vocabulary.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <exception>
#include <fmt/format.h>
#include <mutex>
#include <thread>
#include <vector>

namespace tropilla {
namespace {

constexpr std::array<model_shape, 9> shapes{{
    {"mini", 4, 256, 768, 8, 2, 32, 1024, 2048, 500000.0, true, 8.0, true},
    {"mini-untied", 4, 256, 768, 8, 2, 32, 1024, 2048, 500000.0, true, 8.0, false},
    {"mini-heads", 4, 256, 768, 8, 4, 32, 1024, 2048, 500000.0, true, 8.0, true},
    {"mini-odd", 2, 288, 160, 6, 6, 48, 1000, 2048, 500000.0, true, 8.0, false},
    {"mini-vocabulary", 4, 256, 768, 8, 2, 32, 16384, 2048, 500000.0, true, 8.0, true},
    {"mini-wide", 2, 1024, 3072, 8, 2, 128, 1024, 2048, 500000.0, true, 8.0, false},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000.0, true, 32.0, true},
    {"llama-3.2-3b", 28, 3072, 8192, 24, 8, 128, 128256, 131072, 500000.0, true, 32.0, true},
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, 8192, 500000.0, false, 1.0, false},
}};

const model_shape& find_shape(const std::string& name) {
  for (const model_shape& shape : shapes)
    if (shape.name == name)
      return shape;
  std::string names;
  for (const model_shape& shape : shapes)
    names.append(names.empty() ? "" : ", ").append(shape.name);
  throw error(errc::invalid_argument, fmt::format("there is no shape \"{}\"; the shapes are {}", name, names));
}

/// `general.file_type`: llama.cpp's name for the mix, the plainest ("S") of each K type.
std::uint32_t file_type_number(tensor_type type) {
  switch (type) {
  case tensor_type::f32:
    return 0;
  case tensor_type::f16:
    return 1;
  case tensor_type::q4_0:
    return 2;
  case tensor_type::q4_1:
    return 3;
  case tensor_type::q8_0:
    return 7;
  case tensor_type::q5_0:
    return 8;
  case tensor_type::q5_1:
    return 9;
  case tensor_type::q2_k:
    return 10;
  case tensor_type::q3_k:
    return 11;
  case tensor_type::q4_k:
    return 14;
  case tensor_type::q5_k:
    return 16;
  case tensor_type::q6_k:
    return 18;
  case tensor_type::iq4_nl:
    return 25;
  case tensor_type::bf16:
    return 32;
  }
  return 0;
}

/// llama.cpp keeps the matrix that makes the logits at six bits or more.
tensor_type head_type(tensor_type type, std::size_t width) {
  if (type == tensor_type::f32 || type == tensor_type::f16 || type == tensor_type::bf16 || type == tensor_type::q8_0)
    return storable_type(type, width);
  return storable_type(tensor_type::q6_k, width);
}

/// A tensor and where its numbers come from.
struct synthetic_tensor {
  tensor_type type{};
  std::size_t rows = 1;
  std::size_t columns = 0;
  std::uint64_t offset = 0; ///< in the file
  float mean = 0;
  float deviation = 0;
  std::vector<float> values = {}; ///< given, not drawn, when not empty
};

/// The header of a model and its tensors.
struct blueprint {
  std::vector<std::byte> header;
  std::vector<synthetic_tensor> tensors;
  std::uint64_t file_bytes = 0;
};

class draughtsman {
public:
  draughtsman(const model_shape& shape, const synth_options& options) : shape_(shape), options_(options) {}

  blueprint draw() {
    put_hyper_parameters();
    put_vocabulary(builder_, shape_.vocabulary);
    const tensor_type head = head_type(options_.type, shape_.width);
    matrix("token_embd.weight", shape_.tied ? head : options_.type, shape_.vocabulary, shape_.width);
    for (std::size_t i = 0; i < shape_.layers; ++i)
      layer("blk." + std::to_string(i) + ".");
    norm("output_norm.weight");
    if (!shape_.tied)
      matrix("output.weight", head, shape_.vocabulary, shape_.width);
    if (shape_.llama31_rope)
      rope_factors();
    plan_.header = builder_.header();
    for (synthetic_tensor& t : plan_.tensors)
      t.offset += plan_.header.size();
    plan_.file_bytes = plan_.header.size() + builder_.data_bytes();
    return std::move(plan_);
  }

private:
  void put_hyper_parameters() {
    const auto u32 = [&](std::string_view key, std::size_t value) {
      builder_.put_u32(key, static_cast<std::uint32_t>(value));
    };
    builder_.put_text("general.architecture", "llama");
    builder_.put_text("general.type", "model");
    builder_.put_text("general.name", fmt::format("{}, random weights, seed {}", shape_.name, options_.seed));
    u32("general.file_type", file_type_number(options_.type));
    u32("general.quantization_version", 2);
    u32("llama.block_count", shape_.layers);
    u32("llama.context_length", shape_.context);
    u32("llama.embedding_length", shape_.width);
    u32("llama.feed_forward_length", shape_.ffn_width);
    u32("llama.attention.head_count", shape_.heads);
    u32("llama.attention.head_count_kv", shape_.kv_heads);
    u32("llama.attention.key_length", shape_.head_size);
    u32("llama.attention.value_length", shape_.head_size);
    builder_.put_f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
    u32("llama.rope.dimension_count", shape_.head_size);
    builder_.put_f32("llama.rope.freq_base", static_cast<float>(shape_.rope_theta));
    u32("llama.vocab_size", shape_.vocabulary);
  }

  void layer(const std::string& prefix) {
    const std::size_t queries = shape_.heads * shape_.head_size;
    const std::size_t keys = shape_.kv_heads * shape_.head_size;
    norm(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", options_.type, queries, shape_.width);
    matrix(prefix + "attn_k.weight", options_.type, keys, shape_.width);
    matrix(prefix + "attn_v.weight", options_.type, keys, shape_.width);
    matrix(prefix + "attn_output.weight", options_.type, shape_.width, queries);
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "ffn_gate.weight", options_.type, shape_.ffn_width, shape_.width);
    matrix(prefix + "ffn_up.weight", options_.type, shape_.ffn_width, shape_.width);
    matrix(prefix + "ffn_down.weight", options_.type, shape_.width, shape_.ffn_width);
  }

  /// A deviation of 1/sqrt(columns) keeps the variance of what passes through.
  void matrix(const std::string& name, tensor_type wanted, std::size_t rows, std::size_t columns) {
    const tensor_type type = storable_type(wanted, columns);
    const std::uint64_t offset = builder_.add_tensor(name, type, std::array<std::uint64_t, 2>{columns, rows});
    plan_.tensors.push_back({.type = type,
                             .rows = rows,
                             .columns = columns,
                             .offset = offset,
                             .deviation = 1 / std::sqrt(static_cast<float>(columns))});
  }

  void norm(const std::string& name) {
    constexpr float spread = 0.1F; // not all ones, or a forgotten norm would pass unseen
    const std::uint64_t offset =
        builder_.add_tensor(name, tensor_type::f32, std::array<std::uint64_t, 1>{shape_.width});
    plan_.tensors.push_back(
        {.type = tensor_type::f32, .columns = shape_.width, .offset = offset, .mean = 1.0F, .deviation = spread});
  }

  void rope_factors() {
    constexpr double low = 1.0;
    constexpr double high = 4.0;
    constexpr double original_context = 8192.0;
    auto values =
        llama31_rope_factors(shape_.rope_theta, shape_.head_size, shape_.rope_factor, low, high, original_context);
    const std::uint64_t offset =
        builder_.add_tensor("rope_freqs.weight", tensor_type::f32, std::array<std::uint64_t, 1>{values.size()});
    const std::size_t columns = values.size();
    plan_.tensors.push_back(
        {.type = tensor_type::f32, .columns = columns, .offset = offset, .values = std::move(values)});
  }

  const model_shape& shape_;
  const synth_options& options_;
  gguf_builder builder_;
  blueprint plan_;
};

/// The next state of splitmix64 (Steele et al., 2014), mixed.
std::uint64_t splitmix(std::uint64_t& state) {
  state += 0x9E3779B97F4A7C15U;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

/// Nearly normal numbers, as many at once as fill vector registers. A sum of four uniform numbers is near enough
/// for weights, and costs a tenth of a true normal distribution.
class noise {
public:
  explicit noise(std::uint64_t seed) {
    for (std::size_t l = 0; l < width; ++l) {
      const std::uint64_t bits = splitmix(seed);
      a_[l] = static_cast<std::uint32_t>(bits) | 1U; // xorshift never leaves zero
      b_[l] = static_cast<std::uint32_t>(bits >> 32) | 1U;
    }
  }

  void fill(std::span<float> out, float mean, float deviation) {
    // Four sums of 0 to 65535: mean 131070, deviation sqrt(4 (65536^2 - 1) / 12).
    constexpr float centre = 131070.0F;
    const float scale = deviation / 37837.23F;
    std::size_t i = 0;
    for (; i + width <= out.size(); i += width) {
      step();
      for (std::size_t l = 0; l < width; ++l)
        out[i + l] = mean + (static_cast<float>(sum(l)) - centre) * scale;
    }
    step();
    for (std::size_t l = 0; i < out.size(); ++i, ++l)
      out[i] = mean + (static_cast<float>(sum(l)) - centre) * scale;
  }

private:
  static constexpr std::size_t width = 16;

  /// xorshift32 (Marsaglia, 2003) with two of its triples.
  void step() {
    for (std::size_t l = 0; l < width; ++l) {
      std::uint32_t x = a_[l];
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      a_[l] = x;
    }
    for (std::size_t l = 0; l < width; ++l) {
      std::uint32_t x = b_[l];
      x ^= x << 7;
      x ^= x >> 1;
      x ^= x << 9;
      b_[l] = x;
    }
  }

  [[nodiscard]] std::int32_t sum(std::size_t l) const {
    return static_cast<std::int32_t>((a_[l] & 0xFFFFU) + (a_[l] >> 16) + (b_[l] & 0xFFFFU) + (b_[l] >> 16));
  }

  std::array<std::uint32_t, width> a_;
  std::array<std::uint32_t, width> b_;
};

/// Some rows of one tensor: the unit of work, and of randomness, so that threads don't change the file.
struct chunk {
  std::size_t tensor = 0;
  std::size_t first_row = 0;
  std::size_t rows = 0;
};

std::vector<chunk> cut(const std::vector<synthetic_tensor>& tensors) {
  constexpr std::size_t values = std::size_t{1} << 17; // 512 KiB of floats stay in a core's cache
  std::vector<chunk> out;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const std::size_t rows = std::max<std::size_t>(1, values / tensors[t].columns);
    for (std::size_t first = 0; first < tensors[t].rows; first += rows)
      out.push_back({t, first, std::min(rows, tensors[t].rows - first)});
  }
  return out;
}

/// Hands chunks out to threads and keeps the first error.
class writer {
public:
  writer(const blueprint& plan, std::uint64_t seed, pending_file& file)
      : plan_(plan), seed_(seed), file_(file), chunks_(cut(plan.tensors)) {}

  /// `progress` is called on the calling thread, and what it throws ends the writing.
  void write_all(const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    file_.write(plan_.header, 0);
    done_ = plan_.header.size();
    const std::size_t helpers = std::min<std::size_t>(std::max(1U, std::thread::hardware_concurrency()), 8) - 1;
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < helpers; ++i)
        try {
          threads.emplace_back([this] { work({}); });
        } catch (const std::system_error&) {
          break; // with fewer it is only slower
        }
      work(progress);
    }
    if (failure_)
      std::rethrow_exception(failure_);
    if (progress)
      progress(plan_.file_bytes, plan_.file_bytes);
  }

private:
  void work(const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    std::vector<float> values;
    std::vector<std::byte> blocks;
    try {
      for (std::size_t i = next_++; i < chunks_.size(); i = next_++) {
        done_ += write_chunk(i, values, blocks);
        if (progress)
          progress(done_, plan_.file_bytes);
      }
    } catch (...) {
      next_ = chunks_.size();
      const std::lock_guard lock(mutex_);
      if (!failure_)
        failure_ = std::current_exception();
    }
  }

  std::uint64_t write_chunk(std::size_t index, std::vector<float>& values, std::vector<std::byte>& blocks) {
    const chunk& c = chunks_[index];
    const synthetic_tensor& t = plan_.tensors[c.tensor];
    const std::size_t bytes_of_row = row_bytes(t.type, t.columns);
    values.resize(c.rows * t.columns);
    blocks.resize(c.rows * bytes_of_row);
    if (t.values.empty()) {
      std::uint64_t state = seed_;
      state = splitmix(state) ^ index;
      noise(splitmix(state)).fill(values, t.mean, t.deviation);
    } else {
      std::copy(t.values.begin(), t.values.end(), values.begin());
    }
    quantise(t.type, values, blocks);
    file_.write(blocks, t.offset + c.first_row * bytes_of_row);
    return blocks.size();
  }

  const blueprint& plan_;
  std::uint64_t seed_;
  pending_file& file_;
  std::vector<chunk> chunks_;
  std::atomic<std::size_t> next_ = 0;
  std::atomic<std::uint64_t> done_ = 0;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

} // namespace

std::span<const model_shape> model_shapes() {
  return shapes;
}

tensor_type storable_type(tensor_type wanted, std::size_t columns) noexcept {
  if (columns % info(wanted).block_values == 0)
    return wanted;
  switch (wanted) {
  case tensor_type::q2_k:
  case tensor_type::q3_k:
    return storable_type(tensor_type::iq4_nl, columns);
  case tensor_type::q4_k:
    return storable_type(tensor_type::q5_0, columns);
  case tensor_type::q5_k:
    return storable_type(tensor_type::q5_1, columns);
  case tensor_type::q6_k:
    return storable_type(tensor_type::q8_0, columns);
  default:
    return tensor_type::f16;
  }
}

void write_synthetic_model(const std::filesystem::path& path, const synth_options& options,
                           const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
  const blueprint plan = draughtsman(find_shape(options.shape), options).draw();
  pending_file file(path, plan.file_bytes);
  writer(plan, options.seed, file).write_all(progress);
  file.commit();
}

std::vector<token_id> synthetic_ids(std::size_t count, std::size_t vocabulary, std::uint64_t seed) {
  std::vector<token_id> ids(count);
  std::uint64_t state = 0x9E3779B97F4A7C15ULL * (seed + 1);
  for (auto& id : ids) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    id = static_cast<token_id>((state >> 33) % vocabulary);
  }
  return ids;
}

} // namespace tropilla
