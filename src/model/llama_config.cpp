// Reads the hyper-parameters of a Llama model and checks every tensor against them.
#include "src/model/llama_config.hpp"

#include "src/model/gguf_header.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <fcntl.h>
#include <fmt/format.h>
#include <map>
#include <numbers>
#include <span>
#include <system_error>
#include <unistd.h>

namespace tropilla {
namespace {

/// Bounds what a file may claim so that no product of two of them overflows; the largest published models have
/// 16,384 values in a row and 128 heads.
constexpr std::uint64_t max_width = std::uint64_t{1} << 24;
constexpr std::uint64_t max_positions = std::uint64_t{1} << 31;
constexpr std::uint64_t max_tokens = (std::uint64_t{1} << 31) - 1; ///< token ids are 32 bits, signed

class reader {
public:
  explicit reader(const gguf_file& file)
      : file_(file), name_(file.files.empty() ? "the model" : file.files[0].string()) {}

  llama_config read() {
    check_architecture();
    read_sizes();
    read_attention();
    check_names();
    read_tensors(); // from here on every size is one that the file has bytes for
    read_rope();
    read_rope_factors();
    summarise();
    return std::move(out_);
  }

private:
  template <class... Args>
  [[noreturn]] void fail(errc code, fmt::format_string<Args...> sentence, Args&&... args) const {
    throw error(code, fmt::format("{}: {}", name_, fmt::format(sentence, std::forward<Args>(args)...)));
  }

  void check_kind() const {
    const std::string* type = file_.find_text("general.type");
    if (const std::string* adapter = file_.find_text("adapter.type");
        adapter != nullptr || (type && *type == "adapter"))
      fail(errc::unsupported,
           "the file is an adapter ({}), which fine-tuning adds to a model, and no model; merge it into the model that "
           "it "
           "was made for (llama.cpp's llama-export-lora) and run the result",
           adapter ? in_quotes(*adapter) : "of an unknown type");
    if (type && *type != "model")
      fail(errc::unsupported, "general.type is {}; tropilla runs files of the type \"model\"", in_quotes(*type));
  }

  void check_architecture() const {
    check_kind();
    const std::string& architecture = file_.require_text("general.architecture");
    if (architecture != "llama")
      fail(errc::unsupported, "the architecture is {}; tropilla runs \"llama\"", in_quotes(architecture));
    if (const auto experts = file_.find_integer("llama.expert_count"); experts.value_or(0) > 0)
      fail(errc::unsupported, "the model is a mixture of {} experts; tropilla runs dense Llama models", *experts);
    // Relatives of Llama scale these, and Llama does not.
    for (const std::string_view key : {"llama.logit_scale", "llama.residual_scale", "llama.embedding_scale"})
      if (const auto scale = file_.find_number(key).value_or(0); scale != 0 && scale != 1)
        fail(errc::unsupported, "{} is {}; tropilla runs models without that scale", key, scale);
    for (const std::string_view key : {"llama.attention.sliding_window", "llama.attention.clamp_kqv"})
      if (const auto value = file_.find_number(key).value_or(0); value != 0)
        fail(errc::unsupported, "{} is {}; tropilla runs models without it", key, value);
    if (!file_.find_flag("llama.attention.causal").value_or(true))
      fail(errc::unsupported, "llama.attention.causal is false; tropilla runs models that generate");
  }

  /// A size of 1 to `max`, or a list of equal ones (some converters write one per layer).
  std::optional<std::size_t> find_size(std::string_view key, std::uint64_t max) const {
    const auto found = file_.metadata.find(key);
    if (found == file_.metadata.end())
      return std::nullopt;
    std::optional<std::uint64_t> value;
    if (const auto* array = std::get_if<gguf_array>(&found->second))
      value = equal_elements(*array, key);
    else
      value = file_.find_integer(key);
    if (!value || *value == 0 || *value > max)
      fail(errc::malformed_file, "{} is {}; it must be 1 to {}", key, value.value_or(0), max);
    return static_cast<std::size_t>(*value);
  }

  std::size_t require_size(std::string_view key, std::uint64_t max) const {
    if (const auto size = find_size(key, max))
      return *size;
    fail(errc::malformed_file, "the metadata lacks {}", key);
  }

  std::uint64_t equal_elements(const gguf_array& array, std::string_view key) const {
    return std::visit(
        [&](const auto& values) -> std::uint64_t {
          using value = typename std::decay_t<decltype(values)>::value_type;
          if constexpr (std::is_integral_v<value> && !std::is_same_v<value, bool>) {
            if (values.empty() || values[0] <= 0)
              fail(errc::malformed_file, "{} must be positive", key);
            for (const auto v : values)
              if (v != values[0])
                fail(errc::unsupported, "{} differs between layers ({} and {}); tropilla runs models with equal layers",
                     key, values[0], v);
            return static_cast<std::uint64_t>(values[0]);
          } else {
            fail(errc::malformed_file, "{} must be an integer", key);
          }
        },
        array.values);
  }

  /// A finite number above zero.
  std::optional<double> find_positive(std::string_view key) const {
    const auto value = file_.find_number(key);
    if (value && !(std::isfinite(*value) && *value > 0))
      fail(errc::malformed_file, "{} is {}; it must be a number above zero", key, *value);
    return value;
  }

  void read_sizes() {
    const std::string* name = file_.find_text("general.name");
    out_.name = name ? *name : std::filesystem::path(name_).stem().string();
    out_.layers = require_size("llama.block_count", max_width);
    if (file_.tensors.empty())
      fail(errc::unsupported, "the file has metadata and no tensors: it can turn text into tokens, and no more");
    // At least seven tensors a layer; a claim beyond that would only be found missing one by one.
    if (out_.layers > file_.tensors.size() / 7)
      fail(errc::malformed_file, "llama.block_count is {}, and {} tensors are too few for that many layers",
           out_.layers, file_.tensors.size());
    out_.width = require_size("llama.embedding_length", max_width);
    out_.ffn_width = require_size("llama.feed_forward_length", max_width);
    out_.context = require_size("llama.context_length", max_positions);
    const auto epsilon = find_positive("llama.attention.layer_norm_rms_epsilon");
    if (!epsilon)
      fail(errc::malformed_file, "the metadata lacks llama.attention.layer_norm_rms_epsilon");
    if (*epsilon >= 1)
      fail(errc::malformed_file, "llama.attention.layer_norm_rms_epsilon is {}; it must be far below 1", *epsilon);
    out_.norm_epsilon = static_cast<float>(*epsilon);
  }

  void read_attention() {
    attention_shape& a = out_.attention;
    a.heads = require_size("llama.attention.head_count", max_width);
    a.kv_heads = find_size("llama.attention.head_count_kv", max_width).value_or(a.heads);
    if (a.heads % a.kv_heads != 0)
      fail(errc::malformed_file, "llama.attention.head_count is {}, no multiple of llama.attention.head_count_kv, {}",
           a.heads, a.kv_heads);
    const auto key = find_size("llama.attention.key_length", max_width);
    if (!key && out_.width % a.heads != 0)
      fail(errc::malformed_file, "llama.embedding_length is {}, no multiple of llama.attention.head_count, {}",
           out_.width, a.heads);
    a.key_size = key.value_or(out_.width / a.heads);
    a.value_size = find_size("llama.attention.value_length", max_width).value_or(out_.width / a.heads);
    if (a.value_size == 0)
      fail(errc::malformed_file, "llama.attention.head_count is {}, more than llama.embedding_length, {}", a.heads,
           out_.width);
    // Zero, too, stands for the usual scale.
    const double scale = file_.find_number("llama.attention.scale").value_or(0);
    if (!std::isfinite(scale) || scale < 0)
      fail(errc::malformed_file, "llama.attention.scale is {}; it must be a number above zero", scale);
    a.scale = static_cast<float>(scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(a.key_size)));
  }

  void read_rope() {
    rope_config& r = out_.rope;
    r.theta = find_positive("llama.rope.freq_base").value_or(10000.0);
    r.dims = find_size("llama.rope.dimension_count", max_width).value_or(out_.attention.key_size);
    if (r.dims % 2 != 0 || r.dims > out_.attention.key_size)
      fail(errc::malformed_file, "llama.rope.dimension_count is {}; it must be even and at most the head size, {}",
           r.dims, out_.attention.key_size);
    const std::string* type = file_.find_text("llama.rope.scaling.type");
    const std::string kind = type ? *type : "linear";
    const auto factor = file_.find_number("llama.rope.scaling.factor").value_or(0) != 0
                            ? find_positive("llama.rope.scaling.factor")
                            : positive_unless_zero("llama.rope.scale_linear");
    if (kind == "linear")
      r.linear_scale = factor.value_or(1.0);
    else if (kind == "llama3")
      read_llama31_scaling(factor);
    else if (kind != "none")
      fail(errc::unsupported, "llama.rope.scaling.type is {}; tropilla knows \"none\", \"linear\" and \"llama3\"",
           in_quotes(kind));
    if (const auto attention = file_.find_number("llama.rope.scaling.attn_factor").value_or(1); attention != 1)
      fail(errc::unsupported, "llama.rope.scaling.attn_factor is {}; tropilla runs models where it is 1", attention);
  }

  std::optional<double> positive_unless_zero(std::string_view key) const {
    return file_.find_number(key).value_or(0) == 0 ? std::nullopt : find_positive(key);
  }

  void read_llama31_scaling(std::optional<double> factor) {
    const auto original = find_positive("llama.rope.scaling.original_context_length");
    if (!factor || !original)
      fail(errc::malformed_file, "the \"llama3\" scaling of RoPE needs llama.rope.scaling.factor and "
                                 "llama.rope.scaling.original_context_length");
    const double low = find_positive("llama.rope.scaling.low_freq_factor").value_or(1.0);
    const double high = find_positive("llama.rope.scaling.high_freq_factor").value_or(4.0);
    if (low >= high)
      fail(errc::malformed_file, "llama.rope.scaling.low_freq_factor is {}; it must be below high_freq_factor, {}", low,
           high);
    out_.rope.factors = llama31_rope_factors(out_.rope.theta, out_.rope.dims, *factor, low, high, *original);
    check_factors("llama.rope.scaling.factor");
  }

  /// Refuses tensors that this forward pass would leave out.
  void check_names() const {
    static constexpr std::array<std::string_view, 10> of_layer{
        "attn_norm.weight", "attn_q.weight",   "attn_k.weight", "attn_v.weight",   "attn_output.weight",
        "ffn_norm.weight",  "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight", fused_inputs};
    static constexpr std::array<std::string_view, 4> of_model{"token_embd.weight", "output_norm.weight",
                                                              "output.weight", "rope_freqs.weight"};
    for (const gguf_tensor& t : file_.tensors) {
      std::string_view rest = t.name;
      if (std::find(of_model.begin(), of_model.end(), rest) != of_model.end())
        continue;
      const auto layer = take_layer(rest);
      // Old converters stored the rotary frequencies of each layer; they are not used.
      const bool known = std::find(of_layer.begin(), of_layer.end(), rest) != of_layer.end() ||
                         rest == "attn_rot_embd.weight" || rest == "attn_rot_embd";
      if (!layer || !known)
        fail(errc::unsupported, "tensor {} is no part of a Llama model as tropilla runs it (no biases, no experts)",
             in_quotes(t.name));
      if (*layer >= out_.layers)
        fail(errc::malformed_file, "tensor {} belongs to a layer beyond the {} of llama.block_count", in_quotes(t.name),
             out_.layers);
    }
  }

  static constexpr std::string_view fused_inputs = "attn_qkv.weight";

  /// Takes "blk.12." off the front and returns 12; empty where the name does not begin like that.
  static std::optional<std::uint64_t> take_layer(std::string_view& name) {
    constexpr std::string_view prefix = "blk.";
    if (!name.starts_with(prefix))
      return std::nullopt;
    const std::string_view digits = name.substr(prefix.size(), name.find('.', prefix.size()) - prefix.size());
    std::uint64_t value = 0;
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    // "blk.007." would pass for layer 7 and then be found missing.
    if (failed != std::errc{} || end != digits.data() + digits.size() || (digits.size() > 1 && digits[0] == '0'))
      return std::nullopt;
    name.remove_prefix(std::min(name.size(), prefix.size() + digits.size() + 1));
    return value;
  }

  const gguf_tensor& require_tensor(const std::string& name) const {
    const gguf_tensor* t = file_.find_tensor(name);
    if (!t)
      fail(errc::malformed_file, "tensor {} is missing", in_quotes(name));
    return *t;
  }

  static weight_source source_of(const gguf_tensor& t) {
    return {.name = t.name,
            .type = t.type,
            .rows = static_cast<std::size_t>(t.rows()),
            .columns = static_cast<std::size_t>(t.columns()),
            .file = t.file,
            .offset = t.offset,
            .bytes = t.bytes};
  }

  weight_source vector(const std::string& name, std::size_t size) const {
    const gguf_tensor& t = require_tensor(name);
    if (t.columns() != size || t.rows() != 1)
      fail(errc::malformed_file, "tensor {} has shape {}; the hyper-parameters say [{}]", in_quotes(name),
           t.shape_text(), size);
    if (t.type != tensor_type::f32 && t.type != tensor_type::f16 && t.type != tensor_type::bf16)
      fail(errc::malformed_file, "tensor {} has type {}; vectors are F32, F16 or BF16", in_quotes(name),
           info(t.type).name);
    return source_of(t);
  }

  /// A matrix of `rows` outputs and `columns` inputs; in the file `[columns, rows]`.
  weight_source matrix(const std::string& name, std::size_t rows, std::size_t columns) const {
    const gguf_tensor& t = require_tensor(name);
    const bool flat = t.shape.size() == 2 || t.rows() == (t.shape.size() > 1 ? t.shape[1] : 1);
    if (t.columns() != columns || t.rows() != rows || !flat)
      fail(errc::malformed_file, "tensor {} has shape {}; the hyper-parameters say [{}, {}]", in_quotes(name),
           t.shape_text(), columns, rows);
    return source_of(t);
  }

  void read_tensors() {
    read_embedding();
    const attention_shape& a = out_.attention;
    out_.output_norm = vector("output_norm.weight", out_.width);
    if (file_.find_tensor("output.weight"))
      out_.output = matrix("output.weight", out_.vocabulary, out_.width);
    for (std::size_t i = 0; i < out_.layers; ++i) {
      const std::string prefix = fmt::format("blk.{}.", i);
      llama_layer_sources l;
      l.attn_norm = vector(prefix + "attn_norm.weight", out_.width);
      read_attention_inputs(prefix, l);
      l.attn_output = matrix(prefix + "attn_output.weight", out_.width, a.heads * a.value_size);
      l.ffn_norm = vector(prefix + "ffn_norm.weight", out_.width);
      l.ffn_gate = matrix(prefix + "ffn_gate.weight", out_.ffn_width, out_.width);
      l.ffn_up = matrix(prefix + "ffn_up.weight", out_.ffn_width, out_.width);
      l.ffn_down = matrix(prefix + "ffn_down.weight", out_.width, out_.ffn_width);
      out_.layer_sources.push_back(std::move(l));
    }
  }

  /// Query, key and value: three matrices, or one of which they are consecutive rows.
  void read_attention_inputs(const std::string& prefix, llama_layer_sources& l) const {
    const attention_shape& a = out_.attention;
    const std::size_t queries = a.heads * a.key_size, keys = a.kv_heads * a.key_size,
                      values = a.kv_heads * a.value_size;
    const std::string fused = prefix + std::string(fused_inputs);
    if (!file_.find_tensor(fused)) {
      l.attn_q = matrix(prefix + "attn_q.weight", queries, out_.width);
      l.attn_k = matrix(prefix + "attn_k.weight", keys, out_.width);
      l.attn_v = matrix(prefix + "attn_v.weight", values, out_.width);
      return;
    }
    for (const std::string_view name : {"attn_q.weight", "attn_k.weight", "attn_v.weight"})
      if (file_.find_tensor(prefix + std::string(name)))
        fail(errc::malformed_file, "tensor {} has the rows of {}, too", in_quotes(fused),
             in_quotes(prefix + std::string(name)));
    const weight_source all = matrix(fused, queries + keys + values, out_.width);
    const auto rows = [&](std::size_t first, std::size_t count) {
      const std::uint64_t row = row_bytes(all.type, all.columns);
      weight_source part = all;
      part.rows = count;
      part.offset += first * row;
      part.bytes = count * row;
      return part;
    };
    l.attn_q = rows(0, queries);
    l.attn_k = rows(queries, keys);
    l.attn_v = rows(queries + keys, values);
  }

  /// The vocabulary is what the embedding has rows for, and the tokens must be as many.
  void read_embedding() {
    const gguf_tensor& embedding = require_tensor("token_embd.weight");
    if (embedding.rows() > max_tokens)
      fail(errc::malformed_file, "tensor \"token_embd.weight\" has {} rows; token ids go up to {}", embedding.rows(),
           max_tokens);
    out_.vocabulary = static_cast<std::size_t>(embedding.rows());
    out_.token_embedding = matrix("token_embd.weight", out_.vocabulary, out_.width);
    const auto size = find_size("llama.vocab_size", max_tokens);
    if (size && *size != out_.vocabulary)
      out_.notices.push_back(fmt::format("llama.vocab_size is {}, and \"token_embd.weight\" has {} rows: these count",
                                         *size, out_.vocabulary));
    const gguf_array* tokens = file_.find_array("tokenizer.ggml.tokens");
    if (tokens && tokens->size() != out_.vocabulary)
      fail(errc::malformed_file, "tokenizer.ggml.tokens has {} tokens, and \"token_embd.weight\" has {} rows",
           tokens->size(), out_.vocabulary);
  }

  void read_rope_factors() {
    constexpr std::string_view name = "rope_freqs.weight";
    const gguf_tensor* t = file_.find_tensor(name);
    if (!t)
      return;
    const std::size_t count = out_.rope.dims / 2;
    if (t->type != tensor_type::f32 || t->columns() != count || t->rows() != 1)
      fail(errc::malformed_file, "tensor \"{}\" is {} of shape {}; half of llama.rope.dimension_count says F32 of [{}]",
           name, info(t->type).name, t->shape_text(), count);
    out_.rope.factors.resize(count);
    read_bytes(*t, std::as_writable_bytes(std::span(out_.rope.factors)));
    check_factors(name);
  }

  void check_factors(std::string_view origin) const {
    for (const float f : out_.rope.factors)
      if (!std::isfinite(f) || f <= 0)
        fail(errc::malformed_file, "{} gives a RoPE divisor of {}; it must be a number above zero", origin, f);
  }

  void read_bytes(const gguf_tensor& t, std::span<std::byte> out) const {
    const std::string path = file_.files.at(t.file).string();
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const ssize_t got = fd < 0 ? -1 : ::pread(fd, out.data(), out.size(), static_cast<off_t>(t.offset));
    const int reason = errno;
    if (fd >= 0)
      ::close(fd);
    if (got < 0)
      throw error(errc::io_error, fmt::format("{} can't be read: {}", path, std::generic_category().message(reason)));
    if (static_cast<std::size_t>(got) != out.size())
      throw error(errc::io_error, fmt::format("{} became shorter while it was read", path));
  }

  template <class Visit>
  void each_matrix_of_layers(Visit visit) const {
    for (const auto& l : out_.layer_sources)
      for (const weight_source* w :
           {&l.attn_q, &l.attn_k, &l.attn_v, &l.attn_output, &l.ffn_gate, &l.ffn_up, &l.ffn_down})
        visit(*w);
  }

  /// The type's name is the one that most weights of the layers have: the embedding's often differs.
  void summarise() {
    std::map<tensor_type, std::uint64_t> by_type;
    const auto add = [&](const weight_source& w) {
      out_.parameters += w.rows * w.columns;
      out_.weight_bytes += w.bytes;
    };
    each_matrix_of_layers([&](const weight_source& w) {
      by_type[w.type] += w.rows * w.columns;
      add(w);
    });
    for (const auto& l : out_.layer_sources) {
      add(l.attn_norm);
      add(l.ffn_norm);
    }
    add(out_.output_norm);
    add(out_.token_embedding);
    if (out_.output) {
      add(*out_.output);
      // A step reads one row of a separate embedding.
      out_.weight_bytes -= out_.token_embedding.bytes - out_.token_embedding.bytes / out_.vocabulary;
    }
    const auto largest = std::max_element(by_type.begin(), by_type.end(),
                                          [](const auto& a, const auto& b) { return a.second < b.second; });
    out_.type_name = info(largest->first).name;
  }

  const gguf_file& file_;
  std::string name_;
  llama_config out_;
};

} // namespace

std::vector<float> llama31_rope_factors(double theta, std::size_t dims, double factor, double low, double high,
                                        double original_context) {
  std::vector<float> out(dims / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dims);
    const double wavelength = 2 * std::numbers::pi * std::pow(theta, exponent);
    if (wavelength < original_context / high)
      out[i] = 1.0F;
    else if (wavelength > original_context / low)
      out[i] = static_cast<float>(factor);
    else {
      const double kept = (original_context / wavelength - low) / (high - low);
      out[i] = static_cast<float>(1 / ((1 - kept) / factor + kept));
    }
  }
  return out;
}

llama_config llama_config::read(const gguf_file& file) {
  return reader(file).read();
}

} // namespace tropilla
