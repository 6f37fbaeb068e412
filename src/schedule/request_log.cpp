// Words the log's sentences about requests.
#include "src/schedule/request_log.hpp"

#include <string>

namespace tropilla {
namespace {

constexpr std::chrono::seconds between_reports{10};

/// " at 350.1 tok/s", or nothing where that was not measured.
std::string rate_text(double rate) {
  return rate > 0 ? fmt::format(" at {:.1f} tok/s", rate) : "";
}

} // namespace

void request_log::accepted(const shared_request& r, std::size_t others) {
  if (others == 0 && r.request.submitted - last_step_ > between_reports) { // a rate over idle time says nothing
    since_ = r.request.submitted;
    computed_ = drawn_ = 0;
  }
  if (!log_.wants(log_level::debug))
    return;
  const auto& o = r.request.options;
  const auto what = r.request.score
                        ? fmt::format("the logits of {} tokens", r.request.prompt.size())
                        : fmt::format("{} tokens in, at most {} out{}", r.request.prompt.size(), o.max_tokens,
                                      o.outputs > 1 ? fmt::format(", {} replies", o.outputs) : "");
  log_.debug("request {} is accepted: {}; {} others are there", r.request.id, what, others);
}

void request_log::admitted(const sequence& s, clock::time_point now) const {
  const auto& r = *s.shared;
  log_.debug("request {} is computed {:.3f} s after it came: {} of its {} tokens have keys and values already",
             r.request.id, in_seconds(now - r.request.submitted), s.path.tokens, s.tokens.size());
}

void request_log::first_token(const shared_request& r) const {
  log_.debug("request {} has its first token after {:.3f} s", r.request.id, r.stats.first_token_seconds);
}

void request_log::preempted(const sequence& s) const {
  log_.debug("request {} gives up its {} KV pages, because there are too few, and is computed again later",
             s.shared->request.id, s.path.pages.size());
}

void request_log::context_shifted(const sequence& s, std::size_t dropped) const {
  log_.debug("request {} has filled its context: it forgets {} tokens and goes on with {}", s.shared->request.id,
             dropped, s.tokens.size());
}

void request_log::finished(const shared_request& r) const {
  if (!log_.wants(log_level::debug))
    return;
  const auto& s = r.stats;
  if (r.request.score)
    return log_.debug("request {} is finished: {:.3f} s", r.request.id, s.prefill_seconds);
  log_.debug("request {} is finished ({}): {} tokens in{}, {} of them reused; {} out{}", r.request.id,
             to_string(s.finish), s.prompt_tokens, rate_text(s.prefill_rate()), s.reused_tokens, s.generated_tokens,
             rate_text(s.decode_rate()));
}

void request_log::cancelled(const shared_request& r) const {
  log_.debug("request {} is cancelled after {} tokens", r.request.id, r.stats.generated_tokens);
}

void request_log::failed(const shared_request& r, const error& why) const {
  // Whose client wants no more is no failure of ours.
  log_.log(why.code() == errc::cancelled ? log_level::debug : log_level::warning,
           "request {} failed after {} tokens ({}): {}", r.request.id, r.stats.generated_tokens, to_string(why.code()),
           why.what());
}

void request_log::all_failed(std::size_t requests, const error& why) const {
  if (requests > 0)
    log_.log(why.code() == errc::cancelled ? log_level::debug : log_level::error, "requests: all {} fail ({}): {}",
             requests, to_string(why.code()), why.what());
}

bool request_log::step_done(std::size_t computed, std::size_t drawn, clock::time_point now) {
  log_.trace("a step computed {} tokens and draws {}", computed, drawn);
  last_step_ = now;
  computed_ += computed;
  drawn_ += drawn;
  return now - since_ >= between_reports && log_.wants(log_level::info);
}

void request_log::report(const batch_usage& usage, std::size_t pages, clock::time_point now) {
  const double elapsed = in_seconds(now - since_);
  log_.info("sequences: {} computed, {} waiting; {:.1f} tok/s computed, {:.1f} tok/s generated; {} of {} KV pages are "
            "in use; {} preemptions so far",
            usage.active, usage.waiting, static_cast<double>(computed_) / elapsed,
            static_cast<double>(drawn_) / elapsed, usage.pages_in_use, pages, usage.preemptions);
  since_ = now;
  computed_ = drawn_ = 0;
}

} // namespace tropilla
