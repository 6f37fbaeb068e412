// Measures attention of one row behind many tokens, for each type of keys and values, with one thread and several.
//
//   bench_attention [--tokens N] [--threads N] [--heads N] [--kv-heads N] [--head-size N] [--layers N] [--rounds N]
//
// The shape is Llama-3.2-1B's unless options say otherwise. Keys and values are made up: what they are costs the same.
// All cases take turns in every round, because machines are not equally fast from one second to the next.
#include "kernels/device.hpp"
#include "kernels/ops.hpp"
#include "memory/rounding.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace tropilla;

struct options {
  std::size_t tokens = 32768, threads = usable_cores(), heads = 32, kv_heads = 8, head_size = 64, layers = 16;
  std::size_t rounds = 9;
};

options parse(int count, char** arguments) {
  options o;
  const std::pair<const char*, std::size_t*> known[] = {
      {"--tokens", &o.tokens},       {"--threads", &o.threads}, {"--heads", &o.heads},   {"--kv-heads", &o.kv_heads},
      {"--head-size", &o.head_size}, {"--layers", &o.layers},   {"--rounds", &o.rounds},
  };
  for (int i = 1; i < count; i += 2) {
    const auto* const found = std::find_if(std::begin(known), std::end(known),
                                           [&](const auto& k) { return std::string(arguments[i]) == k.first; });
    if (found == std::end(known) || i + 1 == count)
      throw error(errc::invalid_argument, fmt::format("{} is no option, or has no value", arguments[i]));
    *found->second = std::clamp(std::stoul(arguments[i + 1]), 1UL, 1UL << 20);
  }
  if (o.heads % o.kv_heads != 0 || o.head_size > 512)
    throw error(errc::invalid_argument, "heads must be a multiple of --kv-heads, of at most 512 values");
  return o;
}

/// The KV pages of one type.
struct cache {
  kv_type type;
  std::size_t layer_bytes;
  std::size_t bytes; ///< that a step reads
  std::unique_ptr<device> owner;
  std::vector<std::byte*> pages;

  cache(kv_type t, const options& o)
      : type(t), layer_bytes(kv_layer_bytes(t, o.kv_heads, o.head_size, o.head_size)),
        owner(make_host_device({.name = "host:0", .threads = 1})) {
    const std::size_t count = kv_pages_for(o.tokens);
    const std::size_t stride = round_up(o.layers * layer_bytes, 4096);
    bytes = count * o.layers * layer_bytes;
    std::byte* const memory = owner->reserve(count * stride);
    std::memset(memory, 0x11, count * stride); // a small number in every type
    for (std::size_t i = 0; i < count; ++i)
      pages.push_back(memory + i * stride);
  }
};

/// A device with one number of threads.
struct computer {
  std::unique_ptr<device> dev;
  std::vector<float> q, out;

  computer(std::size_t threads, const options& o)
      : dev(make_host_device({.name = "host:0", .threads = threads})), q(o.heads * o.head_size, 0.5F), out(q.size()) {
    const std::size_t bytes = dev->scratch_bytes(1, q.size(), kv_pages_for(o.tokens));
    dev->set_scratch(dev->reserve(bytes), bytes);
  }

  double seconds(const cache& kv, const options& o) {
    const attention_shape shape{o.heads, o.kv_heads, o.head_size, o.head_size, 0.125F};
    const auto start = std::chrono::steady_clock::now();
    dev->enqueue([&](ops& op) {
      for (std::size_t layer = 0; layer < o.layers; ++layer) {
        const sequence_rows row{0, 1, o.tokens - 1, kv.pages.data()};
        op.attention(q.data(), q.size(), shape, {layer * kv.layer_bytes, kv.type}, {&row, 1}, out.data());
      }
    });
    dev->compute_stream().synchronize();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

void run(const options& o) {
  std::vector<computer> computers;
  for (std::size_t n = 1; n < o.threads; n *= 2)
    computers.emplace_back(n, o);
  computers.emplace_back(o.threads, o);
  std::vector<cache> caches;
  for (const auto type : {kv_type::f16, kv_type::bf16, kv_type::q8_0})
    caches.emplace_back(type, o);
  std::vector<std::vector<std::vector<double>>> times(caches.size(),
                                                      std::vector<std::vector<double>>(computers.size()));
  for (std::size_t round = 0; round <= o.rounds; ++round)
    for (std::size_t k = 0; k < caches.size(); ++k)
      for (std::size_t c = 0; c < computers.size(); ++c)
        if (const double s = computers[c].seconds(caches[k], o); round > 0) // the first warms up
          times[k][c].push_back(s);

  fmt::print("{} heads on {} of {}, {} layers, {} tokens, {}; medians of {} rounds (least)\n\n"
             "| keys and values | MiB | threads | ms | GB/s | times one thread |\n"
             "| --- | ---: | ---: | ---: | ---: | ---: |\n",
             o.heads, o.kv_heads, o.head_size, o.layers, o.tokens, computers.front().dev->isa(), o.rounds);
  for (std::size_t k = 0; k < caches.size(); ++k)
    for (std::size_t c = 0; c < computers.size(); ++c) {
      std::vector<double> ratios;
      for (std::size_t i = 0; i < o.rounds; ++i)
        ratios.push_back(times[k][0][i] / times[k][c][i]);
      const double middle = median(times[k][c]), least = *std::min_element(times[k][c].begin(), times[k][c].end());
      fmt::print("| {} | {:.0f} | {} | {:.2f} ({:.2f}) | {:.1f} | {:.2f} |\n", to_string(caches[k].type),
                 static_cast<double>(caches[k].bytes) / 1048576, computers[c].dev->workers(), 1e3 * middle, 1e3 * least,
                 static_cast<double>(caches[k].bytes) / middle / 1e9, median(ratios));
    }
}

} // namespace

int main(int count, char** arguments) {
  try {
    run(parse(count, arguments));
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_attention: {}\n", e.what());
    return 2;
  }
  return 0;
}
