// Staging slots between reads and packing.
#include "src/io/weight_loader.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

namespace tropilla {
namespace {

/// Free staging slots; packing streams give them back.
class slot_pool {
public:
  explicit slot_pool(std::size_t slots) {
    for (std::size_t i = 0; i < slots; ++i)
      free_.push_back(i);
  }
  [[nodiscard]] bool try_take(std::size_t& slot) {
    const std::lock_guard lock(mutex_);
    if (free_.empty())
      return false;
    slot = free_.back();
    free_.pop_back();
    return true;
  }
  void wait_for_one() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !free_.empty(); });
  }
  void give_back(std::size_t slot) {
    const std::lock_guard lock(mutex_);
    free_.push_back(slot);
    changed_.notify_one();
  }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::size_t> free_;
};

/// A group on its way: counts its chunks down and keeps the first failure.
class group_in_flight {
public:
  group_in_flight(std::size_t chunks, weight_loader::done_callback done) : left_(chunks), done_(std::move(done)) {}

  void chunk_done(const std::string& failure) {
    if (!failure.empty()) {
      const std::lock_guard lock(mutex_);
      if (failure_.empty())
        failure_ = failure;
    }
    if (left_.fetch_sub(1) == 1)
      done_(failure_);
  }

private:
  std::atomic<std::size_t> left_;
  std::mutex mutex_;
  std::string failure_;
  weight_loader::done_callback done_;
};

} // namespace

loader_shape loader_shape::for_model(const llama_layout& layout, std::size_t threads) {
  loader_shape s;
  s.slot_bytes = (slot_bytes_for(layout, best_read_bytes) + 4095) / 4096 * 4096;
  s.pack_streams = std::clamp<std::size_t>(threads, 1, 4);
  s.slots = 2 * s.pack_streams + 2;
  return s;
}

struct weight_loader::impl {
  const llama_layout& layout;
  loader_shape shape;
  std::byte* staging;
  tracer* trace;
  tracer::row read_row = 0;
  std::vector<tracer::row> pack_rows;
  std::unique_ptr<file_reader> reader;
  slot_pool slots;
  std::vector<std::unique_ptr<stream>> streams; ///< last: their jobs use the rest
  std::size_t next_stream = 0;

  impl(const llama_layout& l, std::span<const std::filesystem::path> files, device& dev, const loader_shape& s,
       std::byte* memory, tracer* t)
      : layout(l), shape(s), staging(memory), trace(t), reader(make_file_reader(files, {.depth = s.slots})),
        slots(s.slots) {
    for (std::size_t i = 0; i < s.pack_streams; ++i)
      streams.push_back(dev.make_stream("pack " + std::to_string(i)));
    if (!trace)
      return;
    read_row = trace->make_row("stream " + std::string(dev.name()) + " read");
    for (const auto& st : streams)
      pack_rows.push_back(trace->make_row("stream " + std::string(dev.name()) + " " + std::string(st->name())));
  }

  [[nodiscard]] std::byte* slot_memory(std::size_t slot) const { return staging + slot * shape.slot_bytes; }

  void pack(const weight_group_layout& group, const weight_chunk& chunk, std::size_t slot, std::byte* memory,
            const std::shared_ptr<group_in_flight>& flight) {
    const std::size_t s = next_stream++ % streams.size();
    streams[s]->enqueue([this, &group, chunk, slot, memory, flight, s] {
      std::string failure;
      {
        const trace_span span(trace, trace ? pack_rows[s] : 0, group.name, "bytes",
                              static_cast<std::int64_t>(chunk.bytes));
        failure = place_chunk(group, chunk, {slot_memory(slot), chunk.bytes}, memory);
      }
      slots.give_back(slot);
      flight->chunk_done(failure);
    });
  }
};

weight_loader::weight_loader(const llama_layout& layout, std::span<const std::filesystem::path> files, device& dev,
                             const loader_shape& shape, std::byte* staging, tracer* trace)
    : impl_(std::make_unique<impl>(layout, files, dev, shape, staging, trace)) {}

weight_loader::~weight_loader() = default;

void weight_loader::load(std::size_t index, std::byte* memory, done_callback done) {
  auto& self = *impl_;
  const auto& group = self.layout.groups[index];
  const auto chunks = cut_group(group, self.shape.slot_bytes);
  const auto flight = std::make_shared<group_in_flight>(chunks.size(), std::move(done));
  std::vector<std::size_t> slot_of(chunks.size());
  const trace_span span(self.trace, self.read_row, group.name, "bytes", static_cast<std::int64_t>(group.file_bytes));

  for (std::size_t next = 0, finished = 0; finished < chunks.size();) {
    std::size_t slot = 0;
    if (next < chunks.size() && self.slots.try_take(slot)) {
      const auto& c = chunks[next];
      slot_of[next] = slot;
      self.reader->submit({c.file, c.offset, self.slot_memory(slot), c.bytes, next});
      ++next;
    } else if (self.reader->in_flight() > 0) {
      const auto completion = self.reader->wait();
      const auto i = static_cast<std::size_t>(completion.tag);
      ++finished;
      if (completion.failure.empty()) {
        self.pack(group, chunks[i], slot_of[i], memory, flight);
      } else {
        self.slots.give_back(slot_of[i]);
        flight->chunk_done(completion.failure);
      }
    } else {
      self.slots.wait_for_one();
    }
  }
}

std::string_view weight_loader::io_name() const noexcept {
  return impl_->reader->name();
}

} // namespace tropilla
