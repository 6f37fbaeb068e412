// Measures the speed of the matrix products, beside the limits of the machine in the same run.
//
//   bench_kernels                  products of the shapes of SmolLM2-135M and Llama-3.2-1B: GOP/s and GB/s
//   bench_kernels --limits         what memory and arithmetic can give: read bandwidth, int8 peak
//   bench_kernels --type q4_k      one type only; also --rows N, --threads N, --isa NAME, --precise, --json
//
// Timings are the best of several repetitions: what the code can do, not what the neighbours let it.
#include "kernels/activation_format.hpp"
#include "kernels/device.hpp"
#include "kernels/host/elementwise_kernels.hpp"
#include "kernels/host/linear.hpp"
#include "kernels/host/read_bandwidth.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

using namespace tropilla;
using namespace tropilla::host;

namespace {

struct options {
  bool limits = false;
  bool json = false;
  bool precise = false;
  std::size_t threads = usable_cores();
  std::string isa{host_isa()};
  std::optional<tensor_type> type;
  std::optional<std::size_t> rows;
};

options parse(int count, char** arguments) {
  options out;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == count)
        throw error(errc::invalid_argument, fmt::format("{} needs a value", name));
      return arguments[++i];
    };
    const auto number = [&] { return std::clamp(std::stoul(value()), 1UL, 65536UL); };
    if (name == "--limits")
      out.limits = true;
    else if (name == "--json")
      out.json = true;
    else if (name == "--precise")
      out.precise = true;
    else if (name == "--threads" || name == "-t")
      out.threads = number();
    else if (name == "--rows")
      out.rows = number();
    else if (name == "--isa")
      out.isa = value();
    else if (name == "--type")
      out.type = tensor_type_from_name(value());
    else
      throw error(errc::invalid_argument,
                  fmt::format("unknown option {}; known are --limits --json --precise --threads N --rows N --isa NAME "
                              "--type NAME",
                              name));
  }
  return out;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Memory on huge pages where the system gives them, as a device's reservation is.
class buffer {
public:
  explicit buffer(std::size_t bytes) : bytes_(std::max<std::size_t>(bytes, 1)) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
      throw error(errc::io_error, fmt::format("the system refused {} bytes", bytes));
    madvise(p, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(p);
  }
  ~buffer() { munmap(data_, bytes_); }
  buffer(const buffer&) = delete;
  buffer& operator=(const buffer&) = delete;
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

private:
  std::size_t bytes_;
  std::byte* data_;
};

/// Repeats ten independent products, as fast as the units go. Every instruction multiplies and adds `bytes` pairs of
/// int8.
#define TROPILLA_TEN(op, reg)                                                                                          \
  op " %%" reg "0, %%" reg "1, %%" reg "2\n" op " %%" reg "0, %%" reg "1, %%" reg "3\n" op " %%" reg "0, %%" reg       \
     "1, %%" reg "4\n" op " %%" reg "0, %%" reg "1, %%" reg "5\n" op " %%" reg "0, %%" reg "1, %%" reg "6\n" op        \
     " %%" reg "0, %%" reg "1, %%" reg "7\n" op " %%" reg "0, %%" reg "1, %%" reg "8\n" op " %%" reg "0, %%" reg       \
     "1, %%" reg "9\n" op " %%" reg "0, %%" reg "1, %%" reg "10\n" op " %%" reg "0, %%" reg "1, %%" reg "11\n"
#define TROPILLA_TOUCHED "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11"

/// GOP/s (a multiplication and an addition are two) of all workers; 0 without vector instructions.
double int8_peak(team& t, const std::string& isa) {
  constexpr std::size_t repeats = 10'000'000;
  const double bytes = isa == "avx512" ? 64 : isa == "avx2" ? 32 : 0;
  double best = 0;
  for (int pass = 0; pass < 6 && bytes != 0; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    t.run([&](worker_context&) {
      if (isa == "avx512")
        for (std::size_t i = 0; i < repeats; ++i)
          asm volatile(TROPILLA_TEN("vpdpbusd", "zmm")::: TROPILLA_TOUCHED);
      else
        for (std::size_t i = 0; i < repeats; ++i)
          asm volatile(TROPILLA_TEN("vpmaddubsw", "ymm")::: TROPILLA_TOUCHED);
      asm volatile("vzeroupper");
    });
    const double operations = 2 * bytes * 10 * static_cast<double>(repeats * t.workers());
    best = std::max(best, operations / seconds_since(start) / 1e9);
  }
  return best;
}

/// Matrices that read one input, as the model multiplies them.
struct shape {
  std::string name;
  std::size_t columns;
  std::vector<std::size_t> rows;
  std::vector<tensor_type> types;
};

std::vector<shape> shapes() {
  using enum tensor_type;
  const std::vector<tensor_type> small = {q4_1};
  const std::vector<tensor_type> large = {q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, f16};
  return {{"135M q k v", 576, {576, 192, 192}, small}, {"135M output", 576, {576}, small},
          {"135M gate up", 576, {1536, 1536}, small},  {"135M down", 1536, {576}, small},
          {"135M head", 576, {49152}, {q8_0}},         {"1B q k v", 2048, {2048, 512, 512}, large},
          {"1B gate up", 2048, {8192, 8192}, large},   {"1B down", 8192, {2048}, large}};
}

struct result {
  std::string shape;
  std::string type;
  std::size_t rows = 0;
  double gop_s = 0;
  double gb_s = 0;
};

/// Weights of a shape, as many copies as it takes to come from memory and not from a cache.
class weights {
public:
  weights(const shape& s, tensor_type type) {
    std::size_t one = 0;
    for (const std::size_t rows : s.rows)
      layouts_.push_back(make_packed_layout(type, rows, s.columns));
    for (const packed_layout& l : layouts_)
      one += l.bytes();
    bytes_ = one;
    copies_ = std::max<std::size_t>(1, (std::size_t{96} << 20) / std::max<std::size_t>(1, one));
    memory_.emplace(one * copies_);
    std::byte* at = memory_->data();
    for (const packed_layout& l : layouts_) {
      fill(l, at);
      at += l.bytes();
    }
    for (std::size_t c = 1; c < copies_; ++c)
      std::memcpy(memory_->data() + c * one, memory_->data(), one);
  }

  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::size_t copies() const noexcept { return copies_; }
  [[nodiscard]] std::vector<linear_target> targets(std::size_t copy, float* out, std::size_t stride) const {
    std::vector<linear_target> found;
    const std::byte* at = memory_->data() + copy * bytes_;
    for (const packed_layout& l : layouts_) {
      found.push_back({{l, at}, out, stride, false});
      at += l.bytes();
      out += l.rows;
    }
    return found;
  }

private:
  /// Fills all panels with one random panel: values do not matter for speed as long as they are ordinary numbers.
  static void fill(const packed_layout& l, std::byte* packed) {
    const std::size_t rows = std::min(panel_rows, l.rows);
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(-0.1F, 0.1F);
    std::vector<float> values(rows * l.columns);
    std::generate(values.begin(), values.end(), [&] { return uniform(engine); });
    std::vector<std::byte> blocks(rows * row_bytes(l.type, l.columns));
    quantise(l.type, values, blocks);
    packed_layout group = l;
    group.rows = rows;
    pack_panels(group, 0, 1, blocks, packed);
    for (std::size_t g = 1; g < l.panels(); ++g)
      std::memcpy(packed + g * l.panel_bytes, packed, l.panel_bytes);
  }

  std::vector<packed_layout> layouts_;
  std::optional<buffer> memory_;
  std::size_t bytes_ = 0;
  std::size_t copies_ = 0;
};

result measure(team& t, const options& o, const shape& s, tensor_type type, std::size_t rows) {
  const weights w(s, type);
  const buffer input(activation_buffer_bytes(activation_kind::both, rows, s.columns));
  const activation x{input.data(), activation_kind::both, rows, s.columns};
  std::vector<float> values(s.columns);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(i % 61) - 30;
  for (std::size_t r = 0; r < rows; ++r)
    scalar::rows().store_plain(values.data(), s.columns, 0, divide_up(s.columns, row_piece),
                               row_of(view_of(x, o.precise), r));
  std::size_t stride = 0;
  for (const std::size_t n : s.rows)
    stride += n;
  const buffer out(rows * stride * sizeof(float));
  const std::size_t worker_scratch = round_up(linear_scratch_bytes(), 64);
  const buffer scratch(worker_scratch * t.workers());
  const linear_table& table = linear_kernels(o.isa);

  const double operations = 2.0 * static_cast<double>(stride * s.columns * rows);
  const auto repeats =
      static_cast<std::size_t>(std::clamp(6e9 / operations, 1.0, 2.0 * static_cast<double>(w.copies())));
  std::vector<std::vector<linear_target>> targets;
  for (std::size_t c = 0; c < w.copies(); ++c)
    targets.push_back(w.targets(c, reinterpret_cast<float*>(out.data()), stride));
  double best = 1e9;
  std::size_t copy = 0;
  for (int pass = 0; pass < 9; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    t.run([&](worker_context& worker) {
      for (std::size_t i = 0; i < repeats; ++i) {
        linear(table, worker, scratch.data() + worker.worker() * worker_scratch, x, o.precise, rows,
               targets[(copy + i) % w.copies()]);
        worker.barrier();
      }
    });
    best = std::min(best, seconds_since(start) / static_cast<double>(repeats));
    copy = (copy + repeats) % w.copies();
  }
  return {s.name, std::string(info(type).name), rows, operations / best / 1e9,
          static_cast<double>(w.bytes()) / best / 1e9};
}

void print_limits(const options& o) {
  team t(o.threads, "bench");
  const double read = read_bandwidth(o.threads, std::size_t{384} << 20, 8) / 1e9;
  const double int8 = int8_peak(t, o.isa);
  if (o.json)
    fmt::print("{}\n", nlohmann::json{{"read_gb_s", read}, {"int8_gop_s", int8}}.dump());
  else
    fmt::print("{} threads, {}: {:.1f} GB/s read, {:.0f} GOP/s int8\n", o.threads, o.isa, read, int8);
}

void print_products(const options& o) {
  team t(o.threads, "bench");
  nlohmann::json all = nlohmann::json::array();
  if (!o.json)
    fmt::print("{:<14} {:<6} {:>5} {:>9} {:>8}\n", "shape", "type", "rows", "GOP/s", "GB/s");
  for (const shape& s : shapes())
    for (const tensor_type type : s.types) {
      if (o.type && *o.type != type)
        continue;
      for (const std::size_t rows : o.rows ? std::vector{*o.rows} : std::vector<std::size_t>{1, 4, 512}) {
        if (s.rows.front() > 16384 && rows > 16)
          continue; // the head multiplies few rows
        const result r = measure(t, o, s, type, rows);
        all.push_back({{"shape", r.shape}, {"type", r.type}, {"rows", rows}, {"gop_s", r.gop_s}, {"gb_s", r.gb_s}});
        if (!o.json)
          fmt::print("{:<14} {:<6} {:>5} {:>9.1f} {:>8.2f}\n", r.shape, r.type, r.rows, r.gop_s, r.gb_s);
      }
    }
  if (o.json)
    fmt::print("{}\n", all.dump(2));
}

} // namespace

int main(int count, char** arguments) {
  try {
    const options o = parse(count, arguments);
    o.limits ? print_limits(o) : print_products(o);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_kernels: {}\n", e.what());
    return 2;
  }
}
