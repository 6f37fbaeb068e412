// Keeps reads in flight on one thread, and packs what arrived on streams.
#include "src/io/weight_loader.hpp"

#include "kernels/threads.hpp"
#include "memory/error_of.hpp"
#include "src/io/embedding_loader.hpp"
#include "src/io/load_job.hpp"
#include "src/io/packed_mapping.hpp"
#include "src/io/packed_weights.hpp"
#include "src/io/packing_streams.hpp"
#include "src/io/staging_buffers.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fmt/format.h>
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
    for (std::size_t i = 0; i < setup.shape.slots; ++i)
      free_slots.push_back(i);
    reads.reserve(std::max(setup.shape.slots, packed_depth));
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
    places = std::make_unique<staging_buffers>(
        *setup.dev, staging_buffer_sizes(*setup.layout, setup.shape, setup.kept_bytes), std::move(setup.staging_buffer),
        [this] {
          const std::lock_guard lock(mutex);
          changed.notify_all();
        },
        setup.notice);
    setup.staging = places->beside();
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
    give_up(j, closed());
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

  /// Fails everything under way, since nobody knows how far it came; the next job begins with another reader.
  void fail_all(const error& why) {
    reader.reset(); // waits for its reads
    for (const auto& r : reads)
      if (r.of && !r.of->reads[r.read].destination)
        give_back(r.slot);
    reads.clear();
    while (!jobs.empty()) {
      give_up(jobs.front(), why);
      jobs.pop_front();
    }
  }

  /// Takes what came in; waits while there is nothing else to do. False at the end.
  bool take_jobs() {
    std::unique_lock lock(mutex);
    const auto news = [this] { return stopping || !incoming.empty(); };
    if (in_flight() == 0 && needs_range)
      changed.wait_for(lock, between_looks, news);
    else if (in_flight() == 0)
      changed.wait(lock, [&] {
        return news() ||
               (!jobs.empty() && (!needs_slot || !free_slots.empty()) && (!needs_staging_buffer || places->any_free()));
      });
    line_up();
    if (!stopping)
      return true;
    std::list<job> late;
    for (auto it = jobs.begin(); it != jobs.end();) {
      const auto at = it++;
      if (at->reads.empty())
        late.splice(late.end(), jobs, at);
    }
    lock.unlock();
    for (const auto& j : late)
      give_up(j, closed());
    return !jobs.empty();
  }

  /// Puts incoming jobs in line. A group that is tried again goes before all that were not begun, since it is waited
  /// for longest.
  void line_up() {
    for (; !incoming.empty(); incoming.pop_front()) {
      auto& j = incoming.front();
      const auto at =
          j.answer->again ? std::ranges::find_if(jobs, [](const job& o) { return o.reads.empty(); }) : jobs.end();
      // Pages of streamed groups are there after the first round.
      if (setup.dev->host_memory() && j.from != origin::mapping && !j.answer->again && !is_streamed(j.group))
        prefault(j, jobs.empty() ? prefault_bytes : 0); // the first ones are about to be written anyway
      jobs.insert(at, std::move(j));
    }
  }

  /// Has the pages of a group made while others are read: clearing them takes longer than copying a cached file.
  void prefault(const job& j, std::size_t from) {
    const std::size_t bytes = to_group_alignment(setup.layout->groups[j.group].bytes);
    for (std::size_t at = from; at < bytes; at += prefault_bytes) {
      try {
        enqueue_for(j.answer, [this, begin = j.memory + at, n = std::min(prefault_bytes, bytes - at)] {
          setup.dev->prefault(begin, n);
        });
      } catch (...) {
        return; // pages are made when they are written to, too
      }
    }
  }

  /// Runs `f` on a packing stream; the group is not there before it is done.
  template <class F>
  void enqueue_for(const std::shared_ptr<flight>& answer, F f) {
    answer->expect(1);
    try {
      streams->enqueue([this, answer, f = std::move(f)](tracer::track) {
        f();
        finish(answer, 1);
      });
    } catch (...) {
      (void)answer->finish(1);
      throw;
    }
  }

  /// Counts parts of a group down.
  void finish(const std::shared_ptr<flight>& answer, std::size_t parts) {
    if (answer->finish(parts))
      conclude(answer);
  }

  [[nodiscard]] bool is_streamed(std::size_t group) const { return setup.keeps && setup.keeps(group); }

  static error closed() { return {errc::cancelled, "the loader was closed before the weights were read"}; }

  void give_up(const job& j, const error& why) {
    const auto answer = j.answer;
    answer->from = origin::model; // it is not the packed weights that are wrong
    answer->fail(why);
    finish(answer, j.begun ? j.reads.size() - j.reads_done : 1); // if a packing job still runs, that one concludes
  }

  // -- where packed weights are not what they should be ---------------------------------------------------------------

  /// Compares a piece of packed weights that was read: at once while it is in the processor's cache, else beside the
  /// reading.
  void check(const job& j, const chunk_read& p) {
    const auto& group = setup.layout->groups[j.group];
    const auto at = static_cast<std::size_t>(p.destination - j.memory); // in the group
    auto compare = [this, &group, answer = j.answer, entry = j.entry, at,
                    bytes = std::min(p.chunk.bytes, group.bytes - at)](tracer::track track) {
      {
        const trace_span span(setup.trace, track, group.name, "checked", static_cast<std::int64_t>(bytes));
        if (!entry->is_sound(group.section, group.section_offset + at, {answer->memory + at, bytes}))
          answer->fail(other_checksum());
      }
      finish(answer, 1);
    };
    if (through_page_cache())
      compare(read_track);
    else
      streams->enqueue(std::move(compare));
  }

  /// Prepares a mapped group: it is compared where it lies or, when the mapping is lost, filled like any other. False
  /// while another loader fills it.
  bool prepare_mapped(job& j) {
    auto& f = *j.answer;
    needs_range = false;
    if (f.claimed)
      return true;
    const auto& group = setup.layout->groups[j.group];
    if (!setup.mapping->lost()) {
      enqueue_for(j.answer, [this, &group, answer = j.answer] {
        if (!setup.mapping->is_sound(group.section, group.section_offset, group.bytes))
          answer->fail(other_checksum());
      });
      return true;
    }
    switch (setup.mapping->claim_range(j.memory, to_group_alignment(group.bytes))) {
    case packed_mapping::claim::mine:
      f.claimed = true;
      f.memory = j.memory;
      j.from = origin::model;
      return true;
    case packed_mapping::claim::others:
      needs_range = true;
      return false;
    case packed_mapping::claim::refused:
      j.from = origin::model;
      f.fail(error(errc::over_budget, fmt::format("the system has no memory for {} in place of packed weights that are "
                                                  "mapped and were changed; close something else that takes memory",
                                                  group.name)));
      return true;
    case packed_mapping::claim::done:
      return true;
    }
    return true;
  }

  /// Loads a group from the model's files when it was wrong in the packed weights. False for other failures.
  bool try_again(const std::shared_ptr<flight>& f) {
    if (f->from == origin::packed) {
      packed->damaged(f->group, f->take_failure().what());
      f->from_model = true;
    } else if (f->from == origin::mapping) {
      lose_mapping(*f);
    } else {
      return false;
    }
    f->again = true;
    f->expect(1); // until it is begun again
    add({f->group, f->memory, f, f->from == origin::mapping ? origin::mapping : origin::model});
    return true;
  }

  void lose_mapping(flight& f) {
    const auto why = f.take_failure();
    setup.mapping->lose();
    setup.cache_log.warning("packed weights are not used where they are mapped any more: {}: {}",
                            setup.layout->groups[f.group].name, why.what());
  }

  // -- devices whose memory the processor can't touch -----------------------------------------------------------------

  /// Has the group put together where the processor can write. False while there is no place.
  bool land(job& j, const weight_group_layout& group) {
    auto& f = *j.answer;
    if (!places || f.staging_buffer)
      return true;
    f.staging_buffer = places->take(j.group, to_group_alignment(group.bytes), is_streamed(j.group));
    needs_staging_buffer = !f.staging_buffer;
    if (needs_staging_buffer)
      return false;
    f.target = std::exchange(j.memory, f.staging_buffer->memory);
    f.bytes = group.bytes;
    return true;
  }

  /// Concludes a group, all of whose reads are there or will never be.
  void conclude(const std::shared_ptr<flight>& f) {
    try {
      if (f->failed() && try_again(f))
        return;
      if (f->from == origin::model && packed && !f->failed())
        packed->store(f->group, f->memory);
    } catch (...) {
      f->fail(error_of(std::current_exception()));
    }
    if (f->claimed)
      setup.mapping->filled(f->memory, !f->failed());
    if (!f->staging_buffer)
      return f->answer();
    const bool was_kept = f->staging_buffer->has == staging_buffers::place::content::complete;
    places->deliver(f->staging_buffer, f->target, f->bytes, f->failed(),
                    [this, f, was_kept](const error* why, std::chrono::nanoseconds took) {
                      if (why)
                        f->fail(*why);
                      if (was_kept && setup.meter) {
                        setup.meter->busy_ns += took.count();
                        setup.meter->bytes += f->bytes;
                      }
                      f->answer();
                    });
  }

  [[nodiscard]] bool through_page_cache() const { return reader->mode() != io_mode::direct; }
  [[nodiscard]] std::size_t in_flight() const { return reader ? reader->in_flight() : 0; }

  /// Keeps the queue full, in the order of the jobs.
  void submit_parts() {
    needs_slot = false;
    for (auto it = jobs.begin(); it != jobs.end();) {
      auto& j = *it;
      if (j.reads.empty() && !prepare(j)) // not its turn
        return;
      if (j.from == origin::mapping || j.from == origin::kept || j.answer->failed()) {
        it = finish_reading(it, j.reads.size() - j.next);
        continue;
      }
      while (j.next < j.reads.size() && in_flight() < reader->depth() && submit(j))
        ;
      if (j.next < j.reads.size())
        return;
      ++it; // the rest of the queue is for the next job
    }
  }

  /// Decides where a job's bytes come from and cuts it into parts. False while reads of another kind are in flight.
  bool prepare(job& j) {
    const auto& group = setup.layout->groups[j.group];
    if (j.from == origin::mapping) {
      if (!prepare_mapped(j))
        return false;
      if (j.from == origin::mapping || j.answer->failed())
        return begin(j);
    }
    if (!land(j, group))
      return false;
    if (j.answer->staging_buffer && j.answer->staging_buffer->has == staging_buffers::place::content::complete) {
      j.from = origin::kept;
      return begin(j);
    }
    try {
      auto found = j.answer->from_model ? nullptr : packed_file_now();
      const auto from = found ? origin::packed : origin::model;
      if (reader && open_origin != from && in_flight() > 0)
        return false;
      open_reader(from, found);
      j.from = open_origin;
      if (j.from == origin::packed) {
        j.reads = cut_packed(*entry, group, j.memory, through_page_cache() ? cached_read_bytes : best_read_bytes);
        j.entry = entry;
      } else {
        j.reads = cut_model(group, j.memory, setup.shape.slot_bytes);
      }
    } catch (const error& e) {
      j.from = origin::model;
      j.answer->fail(e);
    }
    return begin(j);
  }

  static bool begin(job& j) {
    if (j.reads.empty())
      j.reads.resize(1); // what is not read is counted down, too
    j.answer->memory = j.memory;
    j.answer->from = j.from;
    j.began = clock::now();
    j.begun = true;
    j.answer->expect(j.reads.size() - 1); // beginning counts as one
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
    reader = setup.make_reader(setup.files, {.depth = setup.shape.slots, .mode = setup.shape.model_mode});
    open_origin = origin::model;
  }

  bool submit(job& j) {
    const auto& p = j.reads[j.next];
    std::size_t slot = 0;
    if (!p.destination) {
      const std::lock_guard lock(mutex);
      needs_slot = free_slots.empty();
      if (needs_slot)
        return false;
      slot = free_slots.back();
      free_slots.pop_back();
    }
    const std::size_t tag = tag_for(reads, {&j, j.next, slot, {}});
    auto& read = reads[tag];
    if (in_flight() == 0)
      busy_since = clock::now();
    if (p.destination) {
      reader->submit({0, p.chunk.offset, p.destination, p.chunk.bytes, tag});
    } else {
      read.range = align_range(p.chunk.offset, p.chunk.bytes, reader->alignment());
      reader->submit(aligned_request(p.chunk.file, read.range, p.chunk.bytes, slot_memory(slot), tag));
    }
    ++j.next;
    return true;
  }

  void complete(const read_completion& c) {
    const auto r = std::exchange(reads[c.tag], {});
    job& j = *r.of;
    const auto& p = j.reads[r.read];
    measure(p.chunk.bytes);
    const bool arrived = c.failure.empty();
    if (!arrived)
      j.answer->fail(error(errc::io_error, c.failure));
    const bool last = j.reads_done + 1 == j.reads.size();
    if (arrived && p.destination)
      check(j, p);
    else if (arrived)
      pack(j, p.chunk, r.slot, r.range.skip);
    else if (!p.destination)
      give_back(r.slot);
    if (last)
      record(j);
    ++j.reads_done;
    const auto answer = j.answer; // the job goes with its last read
    if (last)
      jobs.remove_if([&](const job& other) { return &other == &j; });
    if (!arrived)
      finish(answer, 1);
  }

  void measure(std::size_t bytes) {
    if (!setup.meter)
      return;
    const auto now = clock::now();
    setup.meter->busy_ns += std::chrono::duration_cast<std::chrono::nanoseconds>(now - busy_since).count();
    setup.meter->bytes += bytes;
    busy_since = now;
  }

  /// Counts parts down that are not read, and forgets the job if none is under way.
  std::list<job>::iterator finish_reading(std::list<job>::iterator it, std::size_t parts) {
    auto& j = *it;
    const auto answer = j.answer;
    j.next = j.reads.size();
    j.reads_done += parts;
    if (j.reads_done < j.reads.size()) {
      ++it;
    } else {
      record(j);
      it = jobs.erase(it);
    }
    if (parts > 0)
      finish(answer, parts);
    return it;
  }

  /// Records in trace and log that a group was read, or will not be.
  void record(const job& j) {
    const auto now = clock::now();
    if (setup.log.wants(log_level::debug) && !j.answer->failed())
      log_read(j, now);
    if (!setup.trace)
      return;
    setup.trace->record(read_track, setup.layout->groups[j.group].name, std::max(j.began, recorded), now, "bytes",
                        static_cast<std::int64_t>(setup.layout->groups[j.group].bytes));
    recorded = now; // reads of two groups overlap; what is shown may not
  }

  /// Logs a group that was read. Streamed groups are read for every step, so they are logged at level `trace`.
  void log_read(const job& j, clock::time_point now) const {
    const auto level = is_streamed(j.group) ? log_level::trace : log_level::debug;
    const auto& group = setup.layout->groups[j.group];
    const std::size_t bytes = j.from == origin::model ? group.file_bytes : group.bytes;
    setup.log.log(level, "{} is read for {}: {} from {} in {:.4f} s", group.name, setup.dev->name(), human_bytes{bytes},
                  origin_names[static_cast<std::size_t>(j.from)], std::chrono::duration<double>(now - j.began).count());
  }

  // -- packing ----

  [[nodiscard]] std::byte* slot_memory(std::size_t slot) const { return setup.staging + slot * setup.shape.slot_bytes; }

  void give_back(std::size_t slot) {
    const std::lock_guard lock(mutex);
    free_slots.push_back(slot);
    changed.notify_all();
  }

  void pack(const job& j, const weight_chunk& chunk, std::size_t slot, std::size_t skip) {
    try {
      streams->enqueue(
          [this, index = j.group, memory = j.memory, answer = j.answer, chunk, slot, skip](tracer::track track) {
            place(index, memory, *answer, chunk, {slot_memory(slot) + skip, chunk.bytes}, track);
            give_back(slot);
            finish(answer, 1);
          });
    } catch (...) {
      give_back(slot);
      throw;
    }
  }

  /// Packs a chunk, on a packing stream.
  void place(std::size_t index, std::byte* memory, flight& answer, const weight_chunk& chunk,
             std::span<const std::byte> bytes, tracer::track track) const {
    const auto& group = setup.layout->groups[index];
    try {
      const trace_span span(setup.trace, track, group.name, "bytes", static_cast<std::int64_t>(chunk.bytes));
      if (const auto failure = place_chunk(group, chunk, bytes, memory); !failure.empty())
        throw error(errc::malformed_file, failure);
    } catch (...) {
      answer.fail(error_of(std::current_exception()));
    }
  }

  weight_loader_setup setup;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<job> incoming; // guarded, as are the next two
  std::vector<std::size_t> free_slots;
  bool stopping = false;

  // The reading thread's own.
  std::list<job> jobs; ///< not completely read
  std::vector<read_under_way> reads;
  bool needs_slot = false;           ///< the next read waits for one
  bool needs_staging_buffer = false; ///< the next job does
  bool needs_range = false;          ///< the next job waits for another loader
  std::unique_ptr<file_reader> reader;
  origin open_origin = origin::model;
  std::shared_ptr<const packed_file> entry; ///< that the reader reads
  clock::time_point busy_since{}, recorded{};

  std::optional<packed_weights> packed; ///< made by the reading thread before anything is packed
  tracer::track read_track = 0;
  std::unique_ptr<staging_buffers> places; ///< null: the processor writes where groups stay
  std::optional<packing_streams> streams;  ///< their jobs use the above
  std::optional<embedding_loader> rows;
  std::jthread reading;
};

weight_loader::weight_loader(weight_loader_setup setup) : impl_(std::make_unique<impl>(std::move(setup))) {}

weight_loader::~weight_loader() = default;

void weight_loader::load(std::size_t group, std::byte* memory, done_callback done) {
  impl_->add({group, memory, std::make_shared<flight>(group, std::move(done))});
}

void weight_loader::touch(std::size_t group, std::byte* memory, done_callback done) {
  impl_->add({group, memory, std::make_shared<flight>(group, std::move(done)), origin::mapping});
}

void weight_loader::look_up(std::vector<token_id> ids, float* out, done_callback done) {
  impl_->rows->look_up(std::move(ids), out, std::move(done));
}

} // namespace tropilla
