// Times one layer of the forward pass, over one copy of its weights or over many.
#include "src/model/layer_speed.hpp"

#include "src/model/llama.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

namespace tropilla {
namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

class stopwatch {
public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// Copies of the first layer, and buffers for `rows` tokens of one sequence. All memory is zero.
class made_up_layers {
public:
  made_up_layers(const llama_layout& layout, device& dev, std::size_t rows, std::size_t copies)
      : layout_(layout), dev_(dev), stride_(to_group_alignment(layout.groups[1].bytes)), copies_(copies) {
    const run_shape shape{rows, rows, 1};
    const auto offsets = assign_offsets(forward_buffers(layout, shape, dev), 64);
    const auto& a = layout.attention;
    const std::size_t page = to_group_alignment(kv_layer_bytes(shape.kv, a.kv_heads, a.key_size, a.value_size));
    const std::size_t pages = kv_pages_for(rows);
    const std::size_t arena = to_group_alignment(offsets.bytes);
    weights_ =
        dev.reserve(copies * stride_ + arena + to_group_alignment(workspace_bytes(layout, shape, dev)) + pages * page);
    std::byte* at = weights_ + copies * stride_;
    for (std::size_t p = 0; p < pages; ++p, at += page)
      pages_.push_back(at);
    space_.emplace(layout, shape, dev, at, offsets.offsets, at + arena);
  }

  /// Writes copies for `seconds`, but at least one and 64 MiB where there are as many; the others are dropped.
  void write(double seconds) {
    const stopwatch clock;
    std::size_t done = 0;
    while (done < copies_ * stride_ && (done < std::max(stride_, 64 * mib) || clock.seconds() < seconds)) {
      const std::size_t end = std::min(done + 16 * mib, copies_ * stride_);
      std::atomic<std::size_t> next = done; // the workers share what touching memory for the first time costs
      dev_.enqueue([&](ops&) {
        for (std::size_t at; (at = next.fetch_add(mib)) < end;)
          std::memset(weights_ + at, 1, std::min(mib, end - at));
      });
      dev_.compute_stream().synchronize();
      done = end;
    }
    copies_ = done / stride_;
  }

  /// Seconds of a pass of the first `rows` tokens through all copies.
  double time(std::size_t rows) {
    step s;
    s.ids.assign(rows, 0);
    s.sequences.push_back({0, rows, 0, pages_.data()});
    const stopwatch clock;
    dev_.enqueue([&](ops& o) {
      std::vector<const std::byte*> groups(layout_.groups.size()); // a worker's own
      for (std::size_t c = 0; c < copies_; ++c) {
        groups[1] = weights_ + c * stride_;
        forward_groups(o, layout_, *space_, s, groups, 1, 2);
      }
    });
    dev_.compute_stream().synchronize();
    return clock.seconds();
  }

  [[nodiscard]] std::size_t copies() const noexcept { return copies_; }

private:
  const llama_layout& layout_;
  device& dev_;
  std::size_t stride_;
  std::size_t copies_;
  std::byte* weights_ = nullptr;
  std::vector<std::byte*> pages_;
  std::optional<llama_workspace> space_;
};

} // namespace

std::size_t matrix_parameters(const weight_group_layout& group) {
  std::size_t sum = 0;
  for (const auto& t : group.tensors)
    sum += t.layout.rows * t.layout.columns;
  return sum;
}

double measure_prefill(const llama_layout& layout, device& dev, std::size_t max_rows, double seconds) {
  made_up_layers layer(layout, dev, max_rows, 1);
  const stopwatch clock;
  // Rows grow eightfold, so that a slow machine is told by a pass of few rows, and no pass is larger than what the time
  // that is left allows. The last number of rows counts: fewer of them share less of what a layer costs.
  std::size_t rows = 1;
  double best = layer.time(rows);
  while (rows < max_rows) {
    const double room = std::max(seconds - clock.seconds(), 0.0) / best * static_cast<double>(rows);
    const std::size_t next = std::min({max_rows, 8 * rows, static_cast<std::size_t>(room)});
    if (next <= rows)
      break;
    rows = next;
    best = layer.time(rows);
  }
  while (clock.seconds() + best < seconds) // the first pass of a size also touches memory for the first time
    best = std::min(best, layer.time(rows));
  return 2 * static_cast<double>(matrix_parameters(layout.groups[1]) * rows) / best;
}

double measure_decode(const llama_layout& layout, device& dev, std::size_t bytes, double seconds) {
  const std::size_t one = layout.groups[1].bytes;
  made_up_layers layers(layout, dev, 1, std::max<std::size_t>(bytes / to_group_alignment(one), 1));
  layers.write(seconds);
  std::vector<double> times;
  const stopwatch clock;
  do
    times.push_back(layers.time(1));
  while (clock.seconds() < seconds);
  std::sort(times.begin(), times.end());
  return static_cast<double>(one * layers.copies()) / times[times.size() / 2];
}

} // namespace tropilla
