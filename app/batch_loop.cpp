// Decides on one thread; the feeder, the runtime and Ctrl-C leave notes in its inbox.
#include "app/batch_loop.hpp"

#include "actors/feeder.hpp"
#include "memory/bytes.hpp"
#include "src/batch/record.hpp"
#include "src/schedule/request_room.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <fmt/format.h>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <variant>
#include <vector>

namespace tropilla::app {
namespace {

using namespace std::chrono_literals;

constexpr auto progress_interval = 500ms;
// With --ordered, records wait for those before them: at most so many times the requests in flight, then no more are
// begun.
constexpr std::size_t held_per_flight = 16;

/// A request that the runtime has. Its replies are written to by the runtime, and read when all have ended.
struct job {
  batch_request request;
  std::vector<batch_output> outputs;       ///< of the first prompt, then of the second, ...
  generation_statistics statistics;        ///< counts of all prompts
  std::optional<error> failure;            ///< of a reply
  std::optional<error> refused;            ///< of a prompt; the loop's alone
  std::size_t bytes = 0;                   ///< that it holds, at most
  std::atomic<std::size_t> unfinished = 0; ///< prompts, and one while they are submitted
  std::vector<reply_ticket> tickets;       ///< the loop's alone

  void cancel() const noexcept {
    for (const auto& ticket : tickets)
      ticket.cancel();
  }
};

/// A line that was begun and is not written.
struct ordered_record {
  std::size_t line = 0;
  std::optional<std::string> text;
  std::size_t bytes = 0; ///< of its request, once that has ended
};

struct input_over {};
struct feeder_over {};
struct stop_wanted {};
using note = std::variant<batch_request, std::shared_ptr<job>, error, input_over, feeder_over, stop_wanted>;

/// A queue of notes: any thread puts, one takes.
class inbox final : public cast::request_sink {
public:
  void put(note n) {
    const std::lock_guard lock(mutex_);
    notes_.push_back(std::move(n));
    changed_.notify_one();
  }
  /// Takes a note; empty when none came in that time.
  [[nodiscard]] std::optional<note> take(std::chrono::milliseconds wait) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, wait, [this] { return !notes_.empty(); }))
      return std::nullopt;
    note first = std::move(notes_.front());
    notes_.pop_front();
    return first;
  }

  void take(batch_request r) override { put(std::move(r)); }
  void input_ended() override { put(input_over{}); }
  void input_failed(const error& why) override { put(why); }
  void feeder_ended() override { put(feeder_over{}); }

private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<note> notes_;
};

/// Whether the error is about the request, and not about a runtime that can't go on.
bool is_of_request(errc code) {
  return code == errc::invalid_argument || code == errc::context_full || code == errc::timed_out ||
         code == errc::unsupported;
}

} // namespace

class batch_loop::impl {
public:
  impl(runtime& rt, batch_work work) : rt_(rt), work_(std::move(work)) {
    context_.model = rt.model().name;
    context_.text_of_token = [this](token_id id) { return rt_.detokenize(std::span(&id, 1), true); };
  }

  bool run() {
    feed_.emplace(system_.get(), work_.queue, inbox_);
    while (!over()) {
      pull();
      if (auto n = inbox_->take(progress_interval))
        std::visit([this](auto& what) { handle(what); }, *n);
      if (work_.on_progress)
        work_.on_progress(totals_);
    }
    feed_.reset();
    if (failure_)
      throw error(*failure_);
    return !stopped_;
  }

  void stop() { inbox_->put(stop_wanted{}); }
  [[nodiscard]] const batch_totals& totals() const noexcept { return totals_; }

private:
  [[nodiscard]] bool stopping() const noexcept { return stopped_ || failure_; }
  [[nodiscard]] bool over() const noexcept { return jobs_.empty() && (stopping() || (ended_ && waiting_.empty())); }

  void pull() {
    if (stopping() || ended_)
      return;
    const std::size_t busy = jobs_.size() + waiting_.size() + pulled_;
    if (work_.ordered && records_.size() + pulled_ >= held_per_flight * work_.in_flight)
      return;
    if (busy < work_.in_flight) {
      feed_->pull(work_.in_flight - busy);
      pulled_ += work_.in_flight - busy;
    }
  }

  void handle(batch_request& r) {
    --pulled_;
    if (stopping())
      return;
    totals_.passed_bytes += r.passed;
    if (work_.ordered)
      records_.push_back({r.line, std::nullopt});
    if (r.failure)
      return fail(r, errc::invalid_argument, *r.failure);
    const std::size_t bytes = bytes_of(r);
    if (bytes > work_.max_bytes)
      return fail(r, errc::over_budget,
                  fmt::format("the replies may take {} ({} of up to {} tokens, {} log-probabilities each), and a batch "
                              "has {} for them; ask for fewer or shorter ones",
                              format_bytes(bytes), r.ids.size() * r.options.outputs,
                              std::min(r.options.max_tokens, work_.context), r.options.logprobs,
                              format_bytes(work_.max_bytes)));
    auto j = std::make_shared<job>();
    j->request = std::move(r);
    j->bytes = bytes;
    waiting_.push_back(std::move(j));
    submit_waiting();
  }

  /// Bytes that a request holds from when it is submitted until its record is written.
  [[nodiscard]] std::size_t bytes_of(const batch_request& r) const {
    std::size_t bytes = reply_bytes(r, work_.context);
    for (const auto& prompt : r.ids)
      if (__builtin_add_overflow(bytes, request_bytes(prompt.size(), r.options, work_.context), &bytes))
        return std::numeric_limits<std::size_t>::max();
    return bytes;
  }

  void submit_waiting() {
    while (!stopping() && !waiting_.empty() && waiting_.front()->bytes <= work_.max_bytes - held_bytes_) {
      const auto j = std::move(waiting_.front());
      waiting_.pop_front();
      held_bytes_ += j->bytes;
      submit(j);
    }
  }

  /// Submits every prompt as a request of its own to the runtime. An error that refuses one of them ends the others.
  void submit(const std::shared_ptr<job>& j) {
    const std::size_t each = j->request.options.outputs;
    j->outputs.resize(j->request.ids.size() * each);
    j->unfinished = 1;
    jobs_.emplace(j->request.line, j);
    try {
      for (std::size_t i = 0; i < j->request.ids.size(); ++i) {
        ++j->unfinished;
        try {
          j->tickets.push_back(
              rt_.submit(std::move(j->request.ids[i]), j->request.options, callbacks_of(j, i * each, inbox_)));
        } catch (...) {
          --j->unfinished;
          throw;
        }
      }
    } catch (const error& e) {
      j->cancel();
      j->refused = e;
    }
    prompt_over(j, *inbox_);
  }

  // The runtime holds the callbacks until the reply ended, and they the job: no longer than that.
  static reply_callbacks callbacks_of(const std::shared_ptr<job>& j, std::size_t first,
                                      const std::shared_ptr<inbox>& to) {
    return {.on_piece =
                [j, first](piece p) {
                  batch_output& output = j->outputs[first + p.output];
                  output.add(std::move(p));
                  return true;
                },
            .on_finished =
                [j, to](const generation_statistics& s) {
                  j->statistics.prompt_tokens += s.prompt_tokens;
                  j->statistics.generated_tokens += s.generated_tokens;
                  if (s.finish == finish_reason::cancelled)
                    j->statistics.finish = s.finish;
                  prompt_over(j, *to);
                },
            .on_failed =
                [j, to](const error& why) {
                  if (!j->failure)
                    j->failure = why;
                  prompt_over(j, *to);
                },
            .quick = true};
  }

  static void prompt_over(const std::shared_ptr<job>& j, inbox& to) {
    if (--j->unfinished == 0)
      to.put(j);
  }

  void handle(const std::shared_ptr<job>& j) {
    jobs_.erase(j->request.line);
    end(*j);
    if (!keeps_record(*j))
      held_bytes_ -= j->bytes;
    submit_waiting();
  }

  /// Whether a job's record keeps its bytes: with --ordered, one that is not written yet does. Requests are submitted
  /// in order, so the one that it waits for has had its own.
  bool keeps_record(const job& j) {
    const auto record = std::ranges::find(records_, j.request.line, &ordered_record::line);
    if (record == records_.end())
      return false;
    record->bytes = j.bytes;
    return true;
  }

  void end(job& j) {
    if (j.refused)
      j.failure = j.refused;
    if (j.failure && is_of_request(j.failure->code()))
      return fail(j.request, j.failure->code(), j.failure->what());
    if (j.failure)
      return give_up(*j.failure);
    if (j.statistics.finish == finish_reason::cancelled)
      return; // by `stop`: the next start computes it again
    context_.created = static_cast<std::int64_t>(std::time(nullptr));
    totals_.prompt_tokens += j.statistics.prompt_tokens;
    totals_.output_tokens += j.statistics.generated_tokens;
    put(j.request, result_record(j.request, j.outputs, j.statistics, context_));
  }

  void handle(const error& why) { give_up(why); }
  void handle(input_over) { ended_ = true; }
  void handle(feeder_over) {
    if (!stopping())
      feed_->replace();
  }
  void handle(stop_wanted) {
    stopped_ = true;
    cancel_all();
  }

  void fail(const batch_request& r, errc code, std::string_view why) {
    if (totals_.failed++ == 0)
      totals_.failure = fmt::format("line {}: {}", r.line, why);
    put(r, failure_record(r, code, why));
  }

  void put(const batch_request& r, std::string record) {
    totals_.done_bytes += r.bytes;
    if (!work_.ordered)
      return write(record);
    if (const auto place = std::ranges::find(records_, r.line, &ordered_record::line); place != records_.end())
      place->text = std::move(record);
    while (!records_.empty() && records_.front().text) {
      write(*records_.front().text);
      held_bytes_ -= records_.front().bytes;
      records_.pop_front();
    }
  }

  void write(std::string_view record) {
    work_.write(record);
    ++totals_.requests;
  }

  void give_up(const error& why) {
    if (!failure_)
      failure_ = why;
    cancel_all();
  }

  void cancel_all() {
    for (const auto& [line, j] : jobs_)
      j->cancel();
  }

  runtime& rt_;
  batch_work work_;
  record_context context_;
  std::shared_ptr<inbox> inbox_ = std::make_shared<inbox>(); ///< shared with all that may still write to it
  std::map<std::size_t, std::shared_ptr<job>> jobs_;         ///< by line of the input
  /// With --ordered: lines that were begun and are not written, with what waits for those before.
  std::deque<ordered_record> records_;
  std::deque<std::shared_ptr<job>> waiting_; ///< for memory
  std::size_t held_bytes_ = 0;               ///< of jobs
  std::size_t pulled_ = 0;                   ///< and not seen here
  bool ended_ = false;
  bool stopped_ = false;
  std::optional<error> failure_;
  batch_totals totals_;
  cast::system system_;
  std::optional<cast::request_feed> feed_;
};

batch_loop::batch_loop(runtime& rt, batch_work work) : impl_(std::make_unique<impl>(rt, std::move(work))) {}
batch_loop::~batch_loop() = default;

bool batch_loop::run() {
  return impl_->run();
}
void batch_loop::stop() {
  impl_->stop();
}
const batch_totals& batch_loop::totals() const noexcept {
  return impl_->totals();
}

} // namespace tropilla::app
