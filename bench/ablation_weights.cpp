// Reads weights on the computing thread, which waits for them, or with a loader beside it.
#include "bench/ablation_weights.hpp"

#include "src/io/embedding_lookup.hpp"
#include "src/io/packed_weights.hpp"

#include <algorithm>
#include <deque>
#include <fmt/format.h>
#include <future>

namespace tropilla::bench {
namespace {

/// Groups that are in flight or in use: as the runtime's ring, one computed and two filled.
constexpr std::size_t ring_slots = 3;

std::size_t block_bytes(const weight_group_layout& g) {
  return to_group_alignment(g.bytes);
}

/// A read that ends some time.
using arrival = std::future<std::optional<error>>;

/// A source of weights. `start` may do all of its work before it returns.
class source {
public:
  virtual ~source() = default;
  [[nodiscard]] virtual arrival start(std::size_t group, std::byte* memory) = 0;
  [[nodiscard]] virtual arrival look_up(const std::vector<token_id>& ids, float* rows) = 0;
};

/// Reads one group at a time and waits for it.
class waiting_source final : public source {
public:
  explicit waiting_source(const weights_setup& s) : setup_(s) {
    auto found = find_packed_weights(s.packed_folder, *s.layout, s.files);
    if (!found)
      throw error(
          errc::invalid_argument,
          fmt::format("{} has no packed weights of this model; make them with --prepare", s.packed_folder.string()));
    packed_.emplace(std::move(*found));
    const auto path = packed_->path();
    reader_ = make_file_reader({&path, 1}, {.depth = 1, .mode = s.mode});
    if (s.layout->embedding_on_disk()) {
      const auto& table = s.layout->embedding_source();
      auto rows = make_file_reader(s.files, {.depth = 1, .mode = s.mode, .scattered = true});
      row_memory_ = s.memory->take(
          embedding_lookup::memory_bytes(row_bytes(table.type, table.columns), rows->alignment()), purpose::staging);
      rows_.emplace(std::move(rows), table, row_memory_.get());
    }
    if (s.trace)
      track_ = s.trace->make_track("stream " + std::string(s.dev->name()) + " read");
  }

  [[nodiscard]] arrival start(std::size_t group, std::byte* memory) override {
    const auto& g = setup_.layout->groups[group];
    const trace_span span(setup_.trace, track_, g.name, "bytes", static_cast<std::int64_t>(g.bytes));
    reader_->submit({0, packed_->offset(g.section) + g.section_offset, memory, block_bytes(g), 0, g.bytes});
    const auto ended = reader_->wait();
    return arrived(ended.failure.empty() ? std::nullopt : std::optional(error(errc::io_error, ended.failure)));
  }

  [[nodiscard]] arrival look_up(const std::vector<token_id>& ids, float* rows) override {
    const trace_span span(setup_.trace, track_, "rows", "rows", static_cast<std::int64_t>(ids.size()));
    return arrived(rows_->read(ids, rows));
  }

private:
  static arrival arrived(std::optional<error> failure) {
    std::promise<std::optional<error>> p;
    p.set_value(std::move(failure));
    return p.get_future();
  }

  weights_setup setup_;
  std::optional<packed_file> packed_;
  std::unique_ptr<file_reader> reader_;
  block row_memory_;
  std::optional<embedding_lookup> rows_;
  tracer::track track_ = 0;
};

/// The runtime's loader.
class ahead_source final : public source {
public:
  explicit ahead_source(const weights_setup& s) {
    auto shape = loader_shape::for_model(*s.layout, s.dev->workers());
    shape.model_mode = shape.packed_mode = s.mode;
    staging_ = s.memory->take(shape.staging_bytes(), purpose::staging);
    loader_.emplace(weight_loader_setup{.layout = s.layout,
                                        .dev = s.dev,
                                        .trace = s.trace,
                                        .files = s.files,
                                        .shape = shape,
                                        .read_buffers = staging_.get(),
                                        .packed_folder = s.packed_folder});
  }

  [[nodiscard]] arrival start(std::size_t group, std::byte* memory) override {
    return await([&](auto done) { loader_->load(group, memory, done); });
  }
  [[nodiscard]] arrival look_up(const std::vector<token_id>& ids, float* rows) override {
    return await([&](auto done) { loader_->look_up(ids, rows, done); });
  }

private:
  template <class F>
  static arrival await(F begin) {
    const auto p = std::make_shared<std::promise<std::optional<error>>>();
    auto f = p->get_future();
    begin([p](const error* failure) { p->set_value(failure ? std::optional(*failure) : std::nullopt); });
    return f;
  }

  block staging_;
  std::optional<weight_loader> loader_; ///< last: it ends before what it writes to goes
};

void wait_for(arrival& a) {
  if (a.valid())
    if (const auto failure = a.get())
      throw *failure;
}

class group_weights final : public weights {
public:
  explicit group_weights(const weights_setup& s)
      : setup_(s), memory_(s.layout->groups.size(), nullptr), blocks_(memory_.size()), arrivals_(memory_.size()) {
    std::size_t largest = 0;
    for (std::size_t g = 0; g < memory_.size(); ++g)
      if (streams(g)) {
        streamed_.push_back(g);
        largest = std::max(largest, block_bytes(s.layout->groups[g]));
      }
    depth_ = std::min(s.ahead ? ring_slots : 1, streamed_.size());
    for (std::size_t i = 0; s.slots && i < depth_; ++i)
      free_slots_.push_back(s.memory->take(largest, purpose::ring));
    if (s.ahead)
      source_ = std::make_unique<ahead_source>(s);
    else
      source_ = std::make_unique<waiting_source>(s);
    read_staying();
    if (s.ahead)
      top_up();
  }

  ~group_weights() override { source_.reset(); } // ends what is still being read, before its memory goes

  void need(std::size_t g) override {
    if (!streams(g))
      return wait_for(arrivals_[g]);
    if (ring_.empty())
      top_up();
    wait_for(ring_.front().there);
    memory_[g] = ring_.front().memory.get();
  }

  [[nodiscard]] bool there(std::size_t g) override {
    return !streams(g) &&
           (!arrivals_[g].valid() || arrivals_[g].wait_for(std::chrono::seconds(0)) == std::future_status::ready);
  }

  void done(std::size_t g) override {
    if (!streams(g))
      return;
    memory_[g] = nullptr;
    if (setup_.slots)
      free_slots_.push_back(std::move(ring_.front().memory));
    ring_.pop_front();
    if (setup_.ahead)
      top_up();
  }

  void look_up(const std::vector<token_id>& ids, float* rows) override {
    auto a = source_->look_up(ids, rows);
    wait_for(a);
  }

  [[nodiscard]] std::span<const std::byte* const> groups() const override { return memory_; }

private:
  struct flight {
    block memory;
    arrival there;
  };

  [[nodiscard]] bool streams(std::size_t g) const {
    return setup_.streamed && g != setup_.layout->norm_group() && setup_.layout->groups[g].bytes > 0;
  }

  void read_staying() {
    for (std::size_t g = 0; g < memory_.size(); ++g) {
      const auto& group = setup_.layout->groups[g];
      if (streams(g) || group.bytes == 0)
        continue;
      blocks_[g] = setup_.memory->take(block_bytes(group), purpose::weights);
      memory_[g] = blocks_[g].get();
      arrivals_[g] = source_->start(g, blocks_[g].get());
      if (!setup_.ahead)
        wait_for(arrivals_[g]);
    }
  }

  /// Begins to read the groups that come next; behind the last group the first again.
  void top_up() {
    while (ring_.size() < depth_) {
      const std::size_t g = streamed_[next_];
      next_ = (next_ + 1) % streamed_.size();
      flight f;
      if (setup_.slots) {
        f.memory = std::move(free_slots_.back());
        free_slots_.pop_back();
      } else {
        f.memory = setup_.memory->take(block_bytes(setup_.layout->groups[g]), purpose::ring);
      }
      f.there = source_->start(g, f.memory.get());
      ring_.push_back(std::move(f));
    }
  }

  weights_setup setup_;
  std::vector<const std::byte*> memory_;
  std::vector<block> blocks_;     ///< of groups that stay
  std::vector<arrival> arrivals_; ///< of those
  std::vector<std::size_t> streamed_;
  std::size_t next_ = 0; ///< index in `streamed_`
  std::size_t depth_ = 0;
  std::vector<block> free_slots_;
  std::deque<flight> ring_; ///< in the order of need
  std::unique_ptr<source> source_;
};

} // namespace

std::unique_ptr<weights> open_weights(const weights_setup& setup) {
  return std::make_unique<group_weights>(setup);
}

} // namespace tropilla::bench
