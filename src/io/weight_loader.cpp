// Keeps reads in flight on one thread, and packs what arrived on streams.
#include "src/io/weight_loader.hpp"

#include "kernels/threads.hpp"
#include "memory/error_of.hpp"
#include "src/io/embedding_loader.hpp"
#include "src/io/group_load.hpp"
#include "src/io/packed_mapping.hpp"
#include "src/io/packed_weights.hpp"
#include "src/io/packing_streams.hpp"
#include "src/io/staging_buffers.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

namespace tropilla {
namespace {

using clock = std::chrono::steady_clock;

/// Reads of packed weights in flight; their destination is where they stay, so more costs no memory.
constexpr std::size_t packed_depth = 2 * best_read_depth;

/// Bytes of a read through the page cache: compared before they leave the second-level cache of the processor that
/// copied them. docs/notes/streaming.md has what that gives.
constexpr std::size_t cached_read_bytes = std::size_t{1} << 18;

/// Bytes for which one packing job makes pages: a huge page.
constexpr std::size_t prefault_bytes = std::size_t{2} << 20;

/// The pause between looks at a lost mapping's range that another loader fills.
constexpr std::chrono::milliseconds between_looks{10};

} // namespace

struct weight_loader::impl {
  explicit impl(weight_loader_setup s) : setup(std::move(s)) {
    for (std::size_t i = 0; i < setup.shape.buffers; ++i)
      free_buffers.push_back(i);
    reads.reserve(std::max(setup.shape.buffers, packed_depth));
    if (!setup.dev->host_memory())
      make_staging_buffers();
    if (setup.shape.row_bytes > 0)
      rows.emplace(setup);
    if (setup.trace)
      read_track = setup.trace->make_track("stream " + std::string(setup.dev->name()) + " read");
    streams.emplace(*setup.dev, setup.shape.pack_streams, setup.trace);
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

  void make_staging_buffers() {
    const auto sizes = staging_buffer_sizes(*setup.layout, setup.shape, setup.pinned_bytes);
    staging = std::make_unique<staging_buffers>(
        *setup.dev, sizes, std::move(setup.pinned_buffer),
        [this] {
          const std::lock_guard lock(mutex);
          changed.notify_all();
        },
        setup.notice);
    setup.read_buffers = staging->read_buffers();
  }

  void add(group_reads g) {
    {
      const std::lock_guard lock(mutex);
      if (!stopping) {
        incoming.push_back(std::move(g));
        changed.notify_all();
        return;
      }
    }
    give_up(g, closed_early());
  }

  // -- the reading thread ---------------------------------------------------------------------------------------------

  void run() {
    for (;;)
      try {
        if (!take_incoming())
          return;
        submit_reads();
        if (in_flight() > 0)
          complete(reader->wait());
      } catch (...) {
        fail_all(error_of(std::current_exception()));
      }
  }

  /// Fails everything in flight, since nobody knows how far it came; the next group begins with another reader.
  void fail_all(const error& why) {
    reader.reset(); // waits for its reads
    for (const auto& r : reads)
      if (r.of && !r.of->reads[r.read].destination)
        give_back(r.buffer);
    reads.clear();
    while (!queue.empty()) {
      give_up(queue.front(), why);
      queue.pop_front();
    }
  }

  /// Takes what came in; waits while there is nothing else to do. False at the end.
  bool take_incoming() {
    std::unique_lock lock(mutex);
    const auto news = [this] { return stopping || !incoming.empty(); };
    if (in_flight() == 0 && needs_range)
      changed.wait_for(lock, between_looks, news);
    else if (in_flight() == 0)
      changed.wait(lock, [&] {
        const bool has_buffers =
            (!needs_buffer || !free_buffers.empty()) && (!needs_staging_buffer || staging->any_free());
        return news() || (!queue.empty() && has_buffers);
      });
    line_up();
    if (!stopping)
      return true;
    std::list<group_reads> late;
    for (auto it = queue.begin(); it != queue.end();) {
      const auto at = it++;
      if (at->reads.empty())
        late.splice(late.end(), queue, at);
    }
    lock.unlock();
    for (const auto& g : late)
      give_up(g, closed_early());
    return !queue.empty();
  }

  /// Puts incoming groups in line. One that is tried again goes before all that were not begun, since it is waited
  /// for longest.
  void line_up() {
    for (; !incoming.empty(); incoming.pop_front()) {
      auto& g = incoming.front();
      const auto at = g.load->again ? std::ranges::find_if(queue, [](const group_reads& o) { return o.reads.empty(); })
                                    : queue.end();
      // Pages of streamed groups are there after the first round.
      if (setup.dev->host_memory() && g.from != origin::mapping && !g.load->again && !is_streamed(g.group))
        prefault(g, queue.empty() ? prefault_bytes : 0); // the first ones are about to be written anyway
      queue.insert(at, std::move(g));
    }
  }

  /// Has the pages of a group made while others are read: clearing them takes longer than copying a cached file.
  void prefault(const group_reads& g, std::size_t from) {
    const std::size_t bytes = to_group_alignment(setup.layout->groups[g.group].bytes);
    for (std::size_t at = from; at < bytes; at += prefault_bytes) {
      try {
        enqueue_for(g.load, [this, begin = g.memory + at, n = std::min(prefault_bytes, bytes - at)] {
          setup.dev->prefault(begin, n);
        });
      } catch (...) {
        return; // pages are made when they are written to, too
      }
    }
  }

  /// Runs `f` on a packing stream; the group is not there before it is done.
  template <class F>
  void enqueue_for(const std::shared_ptr<group_load>& load, F f) {
    load->expect(1);
    try {
      streams->enqueue([this, load, f = std::move(f)](tracer::track) {
        f();
        finish(load, 1);
      });
    } catch (...) {
      (void)load->finish(1);
      throw;
    }
  }

  /// Counts reads of a group down.
  void finish(const std::shared_ptr<group_load>& load, std::size_t count) {
    if (load->finish(count))
      conclude(load);
  }

  [[nodiscard]] bool is_streamed(std::size_t group) const { return setup.is_streamed && setup.is_streamed(group); }

  void give_up(const group_reads& g, const error& why) {
    const auto load = g.load;
    load->from = origin::model; // it is not the packed weights that are wrong
    load->fail(why);
    finish(load, g.begun ? g.reads.size() - g.reads_done : 1); // if a packing job still runs, that one concludes
  }

  // -- where packed weights are not what they should be ---------------------------------------------------------------

  /// Compares a piece of packed weights that was read: at once while it is in the processor's cache, else beside the
  /// reading.
  void check(const group_reads& g, const chunk_read& p) {
    const auto& group = setup.layout->groups[g.group];
    const auto at = static_cast<std::size_t>(p.destination - g.memory); // in the group
    auto compare = [this, &group, load = g.load, entry = g.entry, at,
                    bytes = std::min(p.chunk.bytes, group.bytes - at)](tracer::track track) {
      {
        const trace_span span(setup.trace, track, group.name, "checked", static_cast<std::int64_t>(bytes));
        if (!entry->is_sound(group.section, group.section_offset + at, {load->memory + at, bytes}))
          load->fail(other_checksum());
      }
      finish(load, 1);
    };
    if (through_page_cache())
      compare(read_track);
    else
      streams->enqueue(std::move(compare));
  }

  /// Prepares a mapped group: it is compared where it lies or, when the mapping is lost, filled like any other. False
  /// while another loader fills it.
  bool prepare_mapped(group_reads& g) {
    auto& load = *g.load;
    needs_range = false;
    if (load.claimed)
      return true;
    const auto& group = setup.layout->groups[g.group];
    if (!setup.mapping->lost()) {
      enqueue_for(g.load, [this, &group, load = g.load] {
        if (!setup.mapping->is_sound(group.section, group.section_offset, group.bytes))
          load->fail(other_checksum());
      });
      return true;
    }
    switch (setup.mapping->claim_range(g.memory, to_group_alignment(group.bytes))) {
    case packed_mapping::claim::mine:
      load.claimed = true;
      load.memory = g.memory;
      g.from = origin::model;
      return true;
    case packed_mapping::claim::others:
      needs_range = true;
      return false;
    case packed_mapping::claim::refused:
      g.from = origin::model;
      load.fail(no_memory_for(group.name));
      return true;
    case packed_mapping::claim::done:
      return true;
    }
    return true;
  }

  /// Loads a group from the model's files when it was wrong in the packed weights. False for other failures.
  bool try_again(const std::shared_ptr<group_load>& load) {
    if (load->from == origin::packed) {
      packed->damaged(load->group, load->take_failure().what());
      load->from_model = true;
    } else if (load->from == origin::mapping) {
      lose_mapping(*load);
    } else {
      return false;
    }
    load->again = true;
    load->expect(1); // until it is begun again
    add({load->group, load->memory, load, load->from == origin::mapping ? origin::mapping : origin::model});
    return true;
  }

  void lose_mapping(group_load& load) {
    const auto why = load.take_failure();
    setup.mapping->lose();
    setup.cache_log.warning("packed weights are not used where they are mapped any more: {}: {}",
                            setup.layout->groups[load.group].name, why.what());
  }

  // -- devices whose memory the processor can't touch -----------------------------------------------------------------

  /// Takes a staging buffer to put the group together in. False while none is free.
  bool take_staging_buffer(group_reads& g, const weight_group_layout& group) {
    auto& load = *g.load;
    if (!staging || load.staging_buffer)
      return true;
    load.staging_buffer = staging->take(g.group, to_group_alignment(group.bytes), is_streamed(g.group));
    needs_staging_buffer = !load.staging_buffer;
    if (needs_staging_buffer)
      return false;
    load.target = std::exchange(g.memory, load.staging_buffer->memory);
    load.bytes = group.bytes;
    return true;
  }

  /// Concludes a group, all of whose reads are there or will never be.
  void conclude(const std::shared_ptr<group_load>& load) {
    try {
      if (load->failed() && try_again(load))
        return;
      if (load->from == origin::model && packed && !load->failed())
        packed->store(load->group, load->memory);
    } catch (...) {
      load->fail(error_of(std::current_exception()));
    }
    if (load->claimed)
      setup.mapping->filled(load->memory, !load->failed());
    if (!load->staging_buffer)
      return load->answer();
    const bool was_cached = load->staging_buffer->has == staging_buffers::buffer::content::complete;
    staging->deliver(load->staging_buffer, load->target, load->bytes, load->failed(),
                     [this, load, was_cached](const error* why, std::chrono::nanoseconds took) {
                       if (why)
                         load->fail(*why);
                       if (was_cached && setup.meter) {
                         setup.meter->busy_ns += took.count();
                         setup.meter->bytes += load->bytes;
                       }
                       load->answer();
                     });
  }

  [[nodiscard]] bool through_page_cache() const { return reader->mode() != io_mode::direct; }
  [[nodiscard]] std::size_t in_flight() const { return reader ? reader->in_flight() : 0; }

  /// Keeps the reader busy, in the order of the queue.
  void submit_reads() {
    needs_buffer = false;
    for (auto it = queue.begin(); it != queue.end();) {
      auto& g = *it;
      if (g.reads.empty() && !prepare(g)) // not its turn
        return;
      if (g.from == origin::mapping || g.from == origin::pinned || g.load->failed()) {
        it = finish_reading(it, g.reads.size() - g.next);
        continue;
      }
      while (g.next < g.reads.size() && in_flight() < reader->depth() && submit(g))
        ;
      if (g.next < g.reads.size())
        return;
      ++it; // the reader has room for the next group
    }
  }

  /// Decides where a group's bytes come from and cuts it into reads. False while reads of another kind are in flight.
  bool prepare(group_reads& g) {
    const auto& group = setup.layout->groups[g.group];
    if (g.from == origin::mapping) {
      if (!prepare_mapped(g))
        return false;
      if (g.from == origin::mapping || g.load->failed())
        return begin(g);
    }
    if (!take_staging_buffer(g, group))
      return false;
    if (g.load->staging_buffer && g.load->staging_buffer->has == staging_buffers::buffer::content::complete) {
      g.from = origin::pinned;
      return begin(g);
    }
    try {
      auto found = g.load->from_model ? nullptr : packed_file_now();
      const auto from = found ? origin::packed : origin::model;
      if (reader && open_origin != from && in_flight() > 0)
        return false;
      open_reader(from, found);
      g.from = open_origin;
      if (g.from == origin::packed) {
        g.reads = cut_packed(*entry, group, g.memory, through_page_cache() ? cached_read_bytes : best_read_bytes);
        g.entry = entry;
      } else {
        g.reads = cut_model(group, g.memory, setup.shape.buffer_bytes);
      }
    } catch (const error& e) {
      g.from = origin::model;
      g.load->fail(e);
    }
    return begin(g);
  }

  static bool begin(group_reads& g) {
    if (g.reads.empty())
      g.reads.resize(1); // what is not read is counted down, too
    g.load->memory = g.memory;
    g.load->from = g.from;
    g.began = clock::now();
    g.begun = true;
    g.load->expect(g.reads.size() - 1); // beginning counts as one
    return true;
  }

  std::shared_ptr<const packed_file> packed_file_now() {
    if (setup.packed_folder.empty())
      return nullptr;
    if (!packed)
      packed.emplace(setup.packed_folder, *setup.layout, setup.files, setup.notice, setup.cache_log, setup.damage_told);
    return packed->file();
  }

  void open_reader(origin from, const std::shared_ptr<const packed_file>& found) {
    if (reader && open_origin == from)
      return;
    reader.reset();
    if (from == origin::packed) {
      try {
        const std::filesystem::path path = found->path();
        reader = setup.make_reader({&path, 1}, {.depth = packed_depth, .mode = setup.shape.packed_mode});
        open_origin = origin::packed;
        entry = found;
        return;
      } catch (const error&) { // removed meanwhile: the model's files are there
        packed->drop();
      }
    }
    reader = setup.make_reader(setup.files, {.depth = setup.shape.buffers, .mode = setup.shape.model_mode});
    open_origin = origin::model;
  }

  bool submit(group_reads& g) {
    const auto& p = g.reads[g.next];
    std::size_t buffer = 0;
    if (!p.destination) {
      const std::lock_guard lock(mutex);
      needs_buffer = free_buffers.empty();
      if (needs_buffer)
        return false;
      buffer = free_buffers.back();
      free_buffers.pop_back();
    }
    const std::size_t tag = tag_for(reads, {&g, g.next, buffer, {}});
    auto& read = reads[tag];
    if (in_flight() == 0)
      busy_since = clock::now();
    if (p.destination) {
      reader->submit({0, p.chunk.offset, p.destination, p.chunk.bytes, tag});
    } else {
      read.range = align_range(p.chunk.offset, p.chunk.bytes, reader->alignment());
      reader->submit(aligned_request(p.chunk.file, read.range, p.chunk.bytes, read_buffer(buffer), tag));
    }
    ++g.next;
    return true;
  }

  void complete(const read_completion& c) {
    const auto r = std::exchange(reads[c.tag], {});
    group_reads& g = *r.of;
    const auto& p = g.reads[r.read];
    measure(p.chunk.bytes);
    const bool arrived = c.failure.empty();
    if (!arrived)
      g.load->fail(error(errc::io_error, c.failure));
    const bool last = g.reads_done + 1 == g.reads.size();
    if (arrived && p.destination)
      check(g, p);
    else if (arrived)
      enqueue_packing(g, p.chunk, r.buffer, r.range.skip);
    else if (!p.destination)
      give_back(r.buffer);
    if (last)
      record(g);
    ++g.reads_done;
    const auto load = g.load; // `g` goes with its last read
    if (last)
      queue.remove_if([&](const group_reads& other) { return &other == &g; });
    if (!arrived)
      finish(load, 1);
  }

  void measure(std::size_t bytes) {
    if (!setup.meter)
      return;
    const auto now = clock::now();
    setup.meter->busy_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(now - busy_since).count();
    setup.meter->bytes += bytes;
    busy_since = now;
  }

  /// Counts reads down that are not made, and forgets the group if none is in flight.
  std::list<group_reads>::iterator finish_reading(std::list<group_reads>::iterator it, std::size_t count) {
    auto& g = *it;
    const auto load = g.load;
    g.next = g.reads.size();
    g.reads_done += count;
    if (g.reads_done < g.reads.size()) {
      ++it;
    } else {
      record(g);
      it = queue.erase(it);
    }
    if (count > 0)
      finish(load, count);
    return it;
  }

  /// Records in trace and log that a group was read, or will not be.
  void record(const group_reads& g) {
    const auto now = clock::now();
    if (setup.log.wants(log_level::debug) && !g.load->failed())
      log_read(g, now);
    if (!setup.trace)
      return;
    setup.trace->record(read_track, setup.layout->groups[g.group].name, std::max(g.began, recorded), now, "bytes",
                        static_cast<std::int64_t>(setup.layout->groups[g.group].bytes));
    recorded = now; // reads of two groups overlap; what is shown may not
  }

  /// Logs a group that was read. Streamed groups are read for every step, so they are logged at level `trace`.
  void log_read(const group_reads& g, clock::time_point now) const {
    const auto level = is_streamed(g.group) ? log_level::trace : log_level::debug;
    const auto& group = setup.layout->groups[g.group];
    const std::size_t bytes = g.from == origin::model ? group.file_bytes : group.bytes;
    setup.log.log(level, "{} is read for {}: {} from {} in {:.4f} s", group.name, setup.dev->name(), human_bytes{bytes},
                  origin_names[static_cast<std::size_t>(g.from)], std::chrono::duration<double>(now - g.began).count());
  }

  // -- packing ----

  [[nodiscard]] std::byte* read_buffer(std::size_t i) const {
    return setup.read_buffers + i * setup.shape.buffer_bytes;
  }

  void give_back(std::size_t buffer) {
    const std::lock_guard lock(mutex);
    free_buffers.push_back(buffer);
    changed.notify_all();
  }

  void enqueue_packing(const group_reads& g, const weight_chunk& chunk, std::size_t buffer, std::size_t skip) {
    try {
      streams->enqueue(
          [this, index = g.group, memory = g.memory, load = g.load, chunk, buffer, skip](tracer::track track) {
            pack(index, memory, *load, chunk, {read_buffer(buffer) + skip, chunk.bytes}, track);
            give_back(buffer);
            finish(load, 1);
          });
    } catch (...) {
      give_back(buffer);
      throw;
    }
  }

  /// Packs a chunk, on a packing stream.
  void pack(std::size_t index, std::byte* memory, group_load& load, const weight_chunk& chunk,
            std::span<const std::byte> bytes, tracer::track track) const {
    const auto& group = setup.layout->groups[index];
    try {
      const trace_span span(setup.trace, track, group.name, "bytes", static_cast<std::int64_t>(chunk.bytes));
      if (const auto failure = pack_chunk(group, chunk, bytes, memory); !failure.empty())
        throw error(errc::malformed_file, failure);
    } catch (...) {
      load.fail(error_of(std::current_exception()));
    }
  }

  weight_loader_setup setup;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<group_reads> incoming; // guarded, as are the next two
  std::vector<std::size_t> free_buffers;
  bool stopping = false;

  // The reading thread's own.
  std::list<group_reads> queue; ///< not completely read
  std::vector<read_in_flight> reads;
  bool needs_buffer = false;         ///< the next read waits for one
  bool needs_staging_buffer = false; ///< the next group does
  bool needs_range = false;          ///< the next group waits for another loader
  std::unique_ptr<file_reader> reader;
  origin open_origin = origin::model;
  std::shared_ptr<const packed_file> entry; ///< that the reader reads
  clock::time_point busy_since{}, recorded{};

  std::optional<packed_weights> packed; ///< made by the reading thread before anything is packed
  tracer::track read_track = 0;
  std::unique_ptr<staging_buffers> staging; ///< null: the processor writes where groups stay
  std::optional<packing_streams> streams;   ///< their jobs use the above
  std::optional<embedding_loader> rows;
  std::jthread reading;
};

weight_loader::weight_loader(weight_loader_setup setup) : impl_(std::make_unique<impl>(std::move(setup))) {}

weight_loader::~weight_loader() = default;

void weight_loader::load(std::size_t group, std::byte* memory, done_callback done) {
  impl_->add({group, memory, std::make_shared<group_load>(group, std::move(done))});
}

void weight_loader::verify_mapped(std::size_t group, std::byte* memory, done_callback done) {
  impl_->add({group, memory, std::make_shared<group_load>(group, std::move(done)), origin::mapping});
}

void weight_loader::look_up(std::vector<token_id> ids, float* out, done_callback done) {
  impl_->rows->look_up(std::move(ids), out, std::move(done));
}

} // namespace tropilla
