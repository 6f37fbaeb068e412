// One thread that keeps reads in flight, and streams that pack what arrived.
#include "src/io/weight_loader.hpp"

#include "kernels/threads.hpp"
#include "memory/error_of.hpp"
#include "src/io/embedding_rows.hpp"
#include "src/io/landings.hpp"
#include "src/io/packed_weights.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fmt/format.h>
#include <list>
#include <mutex>
#include <optional>
#include <sys/mman.h>
#include <thread>
#include <utility>

namespace tropilla {
namespace {

using clock = std::chrono::steady_clock;

/// Reads of packed weights in flight; their destination is where they stay, so more costs no memory.
constexpr std::size_t packed_depth = 2 * best_read_depth;

/// A group on its way: counts its parts down, keeps the first failure and answers when all are done.
class flight {
public:
  explicit flight(weight_loader::done_callback done) : done_(std::move(done)) {}

  void expect(std::size_t parts) { left_ = parts; }
  void fail(const error& why) {
    const std::lock_guard lock(mutex_);
    if (!failure_)
      failure_.emplace(why);
  }
  [[nodiscard]] bool failed() {
    const std::lock_guard lock(mutex_);
    return failure_.has_value();
  }
  /// True for whoever finishes the last part: it has to `answer`.
  [[nodiscard]] bool finish(std::size_t parts) { return left_.fetch_sub(parts) == parts; }
  void answer() { done_(failure_ ? &*failure_ : nullptr); }

  /// Of a device whose memory the processor can't write: where the group is put together, and where it belongs.
  std::shared_ptr<landings::place> landing;
  std::byte* target = nullptr;
  std::size_t bytes = 0;

private:
  std::atomic<std::size_t> left_{0};
  std::mutex mutex_;
  std::optional<error> failure_;
  weight_loader::done_callback done_;
};

enum class origin : std::uint8_t { model, packed, mapping, kept };
constexpr std::array<std::string_view, 4> origin_names = {"the model's files", "packed weights",
                                                          "mapped packed weights", "pinned memory"};

/// A read: a chunk of the model's files on its way to a slot, or a piece of packed weights on its way to its place.
struct part {
  weight_chunk chunk;
  std::byte* destination = nullptr; ///< of a piece
};

struct job {
  std::size_t group = 0;
  std::byte* memory = nullptr;
  std::shared_ptr<flight> answer;
  origin from = origin::model;
  std::vector<part> parts;
  std::size_t next = 0;  ///< part to submit
  std::size_t read = 0;  ///< parts that were read, or given up
  bool expected = false; ///< its answer counts the parts
  clock::time_point began{};
};

landings::sizes landing_sizes(const llama_layout& layout, const loader_shape& shape, std::size_t kept) {
  landings::sizes s{to_group_alignment(shape.staging_bytes()), 0, kept};
  for (const auto& g : layout.groups)
    s.largest = std::max(s.largest, to_group_alignment(g.bytes));
  return s;
}

} // namespace

loader_shape loader_shape::for_model(const llama_layout& layout, std::size_t threads) {
  loader_shape s;
  s.slot_bytes = to_group_alignment(slot_bytes_for(layout, best_read_bytes)) + 2 * group_alignment;
  s.pack_streams = std::clamp<std::size_t>(threads, 1, 4);
  s.slots = 2 * s.pack_streams + 2;
  if (layout.gathers_embedding())
    s.row_bytes = tropilla::row_bytes(layout.embedding_source().type, layout.embedding_source().columns);
  return s;
}

std::size_t loader_shape::staging_bytes() const noexcept {
  const std::size_t alignment = model_mode == io_mode::direct ? group_alignment : 1;
  return slot_bytes * slots + (row_bytes > 0 ? embedding_rows::memory_bytes(row_bytes, alignment) : 0);
}

std::shared_ptr<std::byte> make_landing_buffer(device& dev, const llama_layout& layout, const loader_shape& shape) {
  return dev.host_memory() ? nullptr : dev.make_host_buffer(landings::buffer_bytes(landing_sizes(layout, shape, 0)));
}

struct weight_loader::impl {
  explicit impl(weight_loader_setup s) : with(std::move(s)) {
    for (std::size_t i = 0; i < with.shape.slots; ++i)
      free_slots.push_back(i);
    reads.reserve(std::max(with.shape.slots, packed_depth));
    for (std::size_t i = 0; i < with.shape.pack_streams; ++i)
      streams.push_back(with.dev->make_stream("pack " + std::to_string(i)));
    if (!with.dev->host_memory())
      make_landings();
    if (with.shape.row_bytes > 0)
      row_stream = with.dev->make_stream("rows");
    if (with.trace) {
      const std::string device(with.dev->name());
      read_row = with.trace->make_row("stream " + device + " read");
      for (const auto& st : streams)
        pack_rows.push_back(with.trace->make_row("stream " + device + " " + std::string(st->name())));
    }
    reading = start_thread("reading weights", [this] { run(); });
  }

  ~impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      changed.notify_all();
    }
    reading.join();
  }

  void make_landings() {
    places = std::make_unique<landings>(
        *with.dev, landing_sizes(*with.layout, with.shape, with.kept_bytes), std::move(with.landing),
        [this] {
          const std::lock_guard lock(mutex);
          changed.notify_all();
        },
        with.notice);
    with.staging = places->beside();
  }

  void add(job j) {
    {
      const std::lock_guard lock(mutex);
      if (!stopping) {
        incoming.push_back(std::move(j));
        changed.notify_all();
        return;
      }
    }
    give_up(j);
  }

  // -- the reading thread ---------------------------------------------------------------------------------------------

  void run() {
    for (;;)
      try {
        if (!take_jobs())
          return;
        submit_parts();
        if (in_flight() > 0)
          complete(reader->wait());
      } catch (...) {
        fail_all(error_of(std::current_exception()));
      }
  }

  /// How far what is under way came nobody knows: it ends, and who comes next begins with another reader.
  void fail_all(const error& why) {
    reader.reset(); // waits for its reads
    for (const auto& r : reads)
      if (r.of && !r.of->parts[r.part].destination)
        give_back(r.slot);
    reads.clear();
    while (!jobs.empty()) {
      const job& j = jobs.front();
      const auto answer = j.answer;
      answer->fail(why);
      if (!j.expected || answer->finish(j.parts.size() - j.read)) // else somebody still packs, and concludes
        conclude(answer);
      jobs.pop_front();
    }
  }

  /// Takes what came in; waits while there is nothing else to do. False at the end.
  bool take_jobs() {
    std::unique_lock lock(mutex);
    if (in_flight() == 0)
      changed.wait(lock, [this] {
        if (stopping || !incoming.empty())
          return true;
        return !jobs.empty() && (!needs_slot || !free_slots.empty()) && (!needs_landing || places->any_free());
      });
    if (stopping) {
      std::move(incoming.begin(), incoming.end(), std::back_inserter(jobs));
      incoming.clear();
      jobs.remove_if([this](const job& j) {
        if (j.parts.empty())
          give_up(j);
        return j.parts.empty();
      });
    }
    std::move(incoming.begin(), incoming.end(), std::back_inserter(jobs));
    incoming.clear();
    return !stopping || !jobs.empty();
  }

  void give_up(const job& j) {
    j.answer->fail(error(errc::cancelled, "the loader was closed before the weights were read"));
    conclude(j.answer);
  }

  // -- devices whose memory the processor can't touch -----------------------------------------------------------------

  /// Has the group put together where the processor can write. False while there is no place.
  bool land(job& j, const weight_group_layout& group) {
    auto& f = *j.answer;
    if (!places || f.landing)
      return true;
    f.landing = places->take(j.group, to_group_alignment(group.bytes), with.keeps && with.keeps(j.group));
    needs_landing = !f.landing;
    if (needs_landing)
      return false;
    f.target = std::exchange(j.memory, f.landing->memory);
    f.bytes = group.bytes;
    return true;
  }

  /// All parts of a group are there, or will never be.
  void conclude(const std::shared_ptr<flight>& f) {
    if (!f->landing)
      return f->answer();
    const bool was_kept = f->landing->has == landings::place::content::complete;
    places->deliver(f->landing, f->target, f->bytes, f->failed(),
                    [this, f, was_kept](const error* why, std::chrono::nanoseconds took) {
                      if (why)
                        f->fail(*why);
                      if (was_kept && with.meter) {
                        with.meter->busy_ns += took.count();
                        with.meter->bytes += f->bytes;
                      }
                      f->answer();
                    });
  }

  [[nodiscard]] std::size_t in_flight() const { return reader ? reader->in_flight() : 0; }

  /// Keeps the queue full, in the order of the jobs.
  void submit_parts() {
    needs_slot = false;
    for (auto it = jobs.begin(); it != jobs.end();) {
      auto& j = *it;
      if (j.parts.empty() && !prepare(j)) // not its turn
        return;
      if (j.from == origin::mapping || j.from == origin::kept || j.answer->failed()) {
        it = finish_reading(it, j.parts.size() - j.next);
        continue;
      }
      while (j.next < j.parts.size() && in_flight() < reader->depth() && submit(j))
        ;
      if (j.next < j.parts.size())
        return;
      ++it; // the rest of the queue is for the next job
    }
  }

  /// Decides where a job's bytes come from and cuts it into parts. False while reads of another kind are in flight.
  bool prepare(job& j) {
    const auto& group = with.layout->groups[j.group];
    if (j.from == origin::mapping) {
      j.parts.resize(1);
      expect(j);
      touch_pages(j);
      return true;
    }
    if (!land(j, group))
      return false;
    if (j.answer->landing && j.answer->landing->has == landings::place::content::complete) {
      j.from = origin::kept;
      j.parts.resize(1);
      expect(j);
      return true;
    }
    try {
      auto found = packed_file_now();
      const auto from = found ? origin::packed : origin::model;
      if (reader && open_origin != from && in_flight() > 0)
        return false;
      open_reader(from, found);
      j.from = open_origin;
      if (j.from == origin::packed)
        cut_packed(j, group);
      else
        cut_model(j, group);
    } catch (const error& e) {
      j.answer->fail(e);
      j.parts.resize(1); // to be counted down
    }
    expect(j);
    return true;
  }

  static void expect(job& j) {
    j.answer->expect(j.parts.size());
    j.expected = true;
    j.began = clock::now();
  }

  std::shared_ptr<const packed_file> packed_file_now() {
    if (with.packed_folder.empty())
      return nullptr;
    if (!packed)
      packed.emplace(with.packed_folder, *with.layout, with.files, with.notice, with.cache_log);
    return packed->file();
  }

  void open_reader(origin from, const std::shared_ptr<const packed_file>& found) {
    if (reader && open_origin == from)
      return;
    reader.reset();
    if (from == origin::packed) {
      try {
        const std::filesystem::path path = found->path();
        reader = with.make_reader({&path, 1}, {.depth = packed_depth, .mode = with.shape.packed_mode});
        open_origin = origin::packed;
        entry = found;
        return;
      } catch (const error&) { // removed meanwhile: the model's files are there
        packed->drop();
      }
    }
    reader = with.make_reader(with.files, {.depth = with.shape.slots, .mode = with.shape.model_mode});
    open_origin = origin::model;
  }

  void cut_packed(job& j, const weight_group_layout& group) {
    // The file has bytes up to the next multiple, and so has the destination.
    const std::uint64_t begin = entry->offset(group.section) + group.section_offset;
    const std::size_t bytes = to_group_alignment(group.bytes);
    for (std::size_t at = 0; at < bytes; at += best_read_bytes)
      j.parts.push_back({{0, 0, 0, 0, begin + at, std::min(best_read_bytes, bytes - at)}, j.memory + at});
  }

  void cut_model(job& j, const weight_group_layout& group) const {
    for (const auto& c : cut_group(group, with.shape.slot_bytes - 2 * group_alignment))
      j.parts.push_back({c, nullptr});
    // What lies between tensors reaches packed files: not what was in memory before.
    std::size_t end = 0;
    for (const auto& t : group.tensors) {
      std::memset(j.memory + end, 0, t.offset - end);
      end = t.offset + t.bytes;
    }
    std::memset(j.memory + end, 0, group.bytes - end);
  }

  bool submit(job& j) {
    const auto& p = j.parts[j.next];
    std::size_t slot = 0;
    if (!p.destination) {
      const std::lock_guard lock(mutex);
      needs_slot = free_slots.empty();
      if (needs_slot)
        return false;
      slot = free_slots.back();
      free_slots.pop_back();
    }
    const std::size_t tag = tag_for({&j, j.next, slot, {}});
    auto& read = reads[tag];
    if (in_flight() == 0)
      busy_since = clock::now();
    if (p.destination) {
      reader->submit({0, p.chunk.offset, p.destination, p.chunk.bytes, tag});
    } else {
      read.cover = aligned_cover(p.chunk.offset, p.chunk.bytes, reader->alignment());
      reader->submit(cover_request(p.chunk.file, read.cover, p.chunk.bytes, slot_memory(slot), tag));
    }
    ++j.next;
    return true;
  }

  struct read_under_way {
    job* of = nullptr;
    std::size_t part = 0;
    std::size_t slot = 0;
    aligned_range cover;
  };

  std::size_t tag_for(const read_under_way& r) {
    for (std::size_t i = 0; i < reads.size(); ++i)
      if (!reads[i].of) {
        reads[i] = r;
        return i;
      }
    reads.push_back(r);
    return reads.size() - 1;
  }

  void complete(const read_completion& c) {
    const auto r = std::exchange(reads[c.tag], {});
    job& j = *r.of;
    const auto& p = j.parts[r.part];
    measure(p.chunk.bytes);
    if (!c.failure.empty()) {
      j.answer->fail(error(errc::io_error, c.failure));
      if (j.from == origin::packed)
        packed->drop(); // the model's files may still be sound
    }
    const bool last = j.read + 1 == j.parts.size();
    const bool to_pack = !p.destination && c.failure.empty();
    if (to_pack)
      pack(j, p.chunk, r.slot, r.cover.skip);
    else if (!p.destination)
      give_back(r.slot);
    if (last)
      record(j);
    ++j.read;
    const auto answer = j.answer; // the job goes with its last read
    if (last)
      jobs.remove_if([&](const job& other) { return &other == &j; });
    if (!to_pack && answer->finish(1))
      conclude(answer);
  }

  void measure(std::size_t bytes) {
    if (!with.meter)
      return;
    const auto now = clock::now();
    with.meter->busy_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(now - busy_since).count();
    with.meter->bytes += bytes;
    busy_since = now;
  }

  /// Counts parts down that are not read, and forgets the job if none is under way.
  std::list<job>::iterator finish_reading(std::list<job>::iterator it, std::size_t parts) {
    auto& j = *it;
    const auto answer = j.answer;
    j.next = j.parts.size();
    j.read += parts;
    if (j.read < j.parts.size()) {
      ++it;
    } else {
      record(j);
      it = jobs.erase(it);
    }
    if (parts > 0 && answer->finish(parts))
      conclude(answer);
    return it;
  }

  void touch_pages(job& j) const {
    const auto& group = with.layout->groups[j.group];
#ifndef MADV_POPULATE_READ
    constexpr int MADV_POPULATE_READ = 22;
#endif
    // A refusal (Linux before 5.14) costs the first step its page faults; a file that was cut short is told here and
    // not by a signal in the middle of a kernel.
    if (::madvise(j.memory, to_group_alignment(group.bytes), MADV_POPULATE_READ) != 0 && errno != EINVAL)
      j.answer->fail(error(errc::io_error, fmt::format("can't read {} from the packed weights in {}: {}; remove "
                                                       "that folder",
                                                       group.name, with.packed_folder.string(), std::strerror(errno))));
  }

  /// A group was read, or will not be.
  void record(const job& j) {
    const auto now = clock::now();
    if (with.log.wants(log_level::debug) && !j.answer->failed())
      log_read(j, now);
    if (!with.trace)
      return;
    with.trace->record(read_row, with.layout->groups[j.group].name, std::max(j.began, recorded), now, "bytes",
                       static_cast<std::int64_t>(with.layout->groups[j.group].bytes));
    recorded = now; // reads of two groups overlap; what is shown may not
  }

  /// Streamed groups are read for every step: that much only `trace` wants to know.
  void log_read(const job& j, clock::time_point now) const {
    const auto level = with.keeps && with.keeps(j.group) ? log_level::trace : log_level::debug;
    const auto& group = with.layout->groups[j.group];
    const std::size_t bytes = j.from == origin::model ? group.file_bytes : group.bytes;
    with.log.log(level, "{} is read for {}: {} from {} in {:.4f} s", group.name, with.dev->name(), human_bytes{bytes},
                 origin_names[static_cast<std::size_t>(j.from)], std::chrono::duration<double>(now - j.began).count());
  }

  // -- packing ----

  [[nodiscard]] std::byte* slot_memory(std::size_t slot) const {
    return with.staging + slot * with.shape.slot_bytes;
  }

  void give_back(std::size_t slot) {
    const std::lock_guard lock(mutex);
    free_slots.push_back(slot);
    changed.notify_all();
  }

  void pack(const job& j, const weight_chunk& chunk, std::size_t slot, std::size_t skip) {
    const std::size_t s = next_stream++ % streams.size();
    try {
      streams[s]->enqueue([this, index = j.group, memory = j.memory, answer = j.answer, chunk, slot, skip, s] {
        place(index, memory, *answer, chunk, {slot_memory(slot) + skip, chunk.bytes}, s);
        give_back(slot);
        if (!answer->finish(1))
          return;
        if (packed && !answer->failed())
          packed->store(index, memory);
        conclude(answer);
      });
    } catch (...) {
      give_back(slot);
      throw;
    }
  }

  /// On a packing stream.
  void place(std::size_t index, std::byte* memory, flight& answer, const weight_chunk& chunk,
             std::span<const std::byte> bytes, std::size_t stream_number) const {
    const auto& group = with.layout->groups[index];
    try {
      const trace_span span(with.trace, with.trace ? pack_rows[stream_number] : 0, group.name, "bytes",
                            static_cast<std::int64_t>(chunk.bytes));
      if (const auto failure = place_chunk(group, chunk, bytes, memory); !failure.empty())
        throw error(errc::malformed_file, failure);
    } catch (...) {
      answer.fail(error_of(std::current_exception()));
    }
  }

  // -- rows ----

  void gather(const std::vector<token_id>& ids, float* out, const done_callback& done) {
    std::optional<error> failure;
    try {
      if (!rows) {
        const reader_options options{.depth = best_row_depth, .mode = with.shape.model_mode, .scattered = true};
        rows = std::make_unique<embedding_rows>(with.make_reader(with.files, options), with.layout->embedding_source(),
                                                with.staging + with.shape.slots * with.shape.slot_bytes);
      }
      if (with.dev->host_memory()) {
        failure = rows->read(ids, out);
      } else {
        widened.resize(ids.size() * with.layout->config.width);
        failure = rows->read(ids, widened.data());
        if (!failure)
          with.dev->upload(reinterpret_cast<const std::byte*>(widened.data()), reinterpret_cast<std::byte*>(out),
                           widened.size() * sizeof(float));
      }
    } catch (...) {
      failure = error_of(std::current_exception());
    }
    done(failure ? &*failure : nullptr);
  }

  weight_loader_setup with;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<job> incoming; // guarded, as are the next two
  std::vector<std::size_t> free_slots;
  bool stopping = false;

  // The reading thread's own.
  std::list<job> jobs; ///< not completely read
  std::vector<read_under_way> reads;
  bool needs_slot = false;    ///< the next part waits for one
  bool needs_landing = false; ///< the next job does
  std::unique_ptr<file_reader> reader;
  origin open_origin = origin::model;
  std::shared_ptr<const packed_file> entry; ///< that the reader reads
  clock::time_point busy_since{}, recorded{};

  std::optional<packed_weights> packed; ///< made by the reading thread before anything is packed
  std::unique_ptr<embedding_rows> rows; ///< of the row stream
  std::vector<float> widened;           ///< rows on their way to a device
  tracer::row read_row = 0;
  std::vector<tracer::row> pack_rows;
  std::size_t next_stream = 0;
  std::unique_ptr<landings> places;             ///< null: the processor writes where groups stay
  std::vector<std::unique_ptr<stream>> streams; ///< their jobs use the above
  std::unique_ptr<stream> row_stream;
  std::jthread reading;
};

weight_loader::weight_loader(weight_loader_setup setup) : impl_(std::make_unique<impl>(std::move(setup))) {}

weight_loader::~weight_loader() = default;

void weight_loader::load(std::size_t group, std::byte* memory, done_callback done) {
  impl_->add({group, memory, std::make_shared<flight>(std::move(done)), origin::model, {}, 0, 0, {}});
}

void weight_loader::touch(std::size_t group, const std::byte* memory, done_callback done) {
  // The pages are only looked at.
  impl_->add({group,
              const_cast<std::byte*>(memory), // NOLINT(cppcoreguidelines-pro-type-const-cast): nothing writes there
              std::make_shared<flight>(std::move(done)),
              origin::mapping,
              {},
              0,
              0,
              {}});
}

void weight_loader::gather(std::vector<token_id> ids, float* out, done_callback done) {
  impl_->row_stream->enqueue(
      [self = impl_.get(), ids = std::move(ids), out, done = std::move(done)] { self->gather(ids, out, done); });
}

} // namespace tropilla
