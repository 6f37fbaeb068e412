// Prompt in chunks, then token by token, until something ends the reply.
#include "src/schedule/sequencer.hpp"

#include "src/sampling/draw.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

double seconds(sequencer::clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

} // namespace

void check_request(const sequence_request& request, std::size_t vocabulary, std::size_t context) {
  if (request.prompt.empty())
    throw error(errc::invalid_argument, "the prompt is empty; give at least one token");
  for (const token_id id : request.prompt)
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary)
      throw error(errc::invalid_argument,
                  fmt::format("token id {} is not in the vocabulary of {} tokens", id, vocabulary));
  const std::size_t room = request.score ? context : context - 1; // a reply needs a place for its first token
  if (request.prompt.size() > room)
    throw error(errc::context_full,
                fmt::format("the prompt has {} tokens and the context holds {}; shorten it or open the model with a "
                            "context of at least {} (--ctx)",
                            request.prompt.size(), context, request.prompt.size() + 1));
  check_sampling(request.options.sampling);
}

/// The active request.
struct sequencer::sequence {
  sequence_request request;
  std::vector<token_id> pending; ///< tokens that are not in the cache yet
  std::size_t in_step = 0;       ///< of these, how many the step that is out computes
  std::size_t step_position = 0; ///< position of that step's first row
  utf8_stream text;
  generation_statistics stats;
  clock::time_point began;
  clock::time_point first_token;
  bool cancelled = false;
  bool waiting_for_client = false; ///< logits are being read
};

sequencer::sequencer(const tokenizer& tok, run_shape shape, std::vector<std::byte*> pages)
    : tokenizer_(tok), shape_(shape), pages_(std::make_shared<const std::vector<std::byte*>>(std::move(pages))) {}

sequencer::~sequencer() = default;

void sequencer::submit(sequence_request request) {
  queue_.push_back(std::move(request));
}

void sequencer::cancel(request_id id) {
  if (active_ && active_->request.id == id) {
    if (step_out_)
      active_->cancelled = true; // its buffers are in use until the step ends
    else
      finish(finish_reason::cancelled, clock::now());
    return;
  }
  const auto it = std::find_if(queue_.begin(), queue_.end(), [id](const auto& r) { return r.id == id; });
  if (it == queue_.end())
    return;
  generation_statistics stats;
  stats.prompt_tokens = it->prompt.size();
  stats.finish = finish_reason::cancelled;
  it->sink->finished(stats);
  queue_.erase(it);
}

void sequencer::fail_all(const error& why) {
  if (active_)
    active_->request.sink->failed(why);
  active_.reset();
  step_out_ = false;
  cached_.clear();
  for (auto& r : queue_)
    r.sink->failed(why);
  queue_.clear();
}

void sequencer::activate(clock::time_point now) {
  auto s = std::make_unique<sequence>();
  s->request = std::move(queue_.front());
  queue_.pop_front();
  const auto& prompt = s->request.prompt;
  std::size_t common = 0;
  if (!s->request.score) // the last token is always computed: its logits are wanted
    while (common < cached_.size() && common + 1 < prompt.size() && cached_[common] == prompt[common])
      ++common;
  cached_.resize(common);
  s->pending.assign(prompt.begin() + static_cast<std::ptrdiff_t>(common), prompt.end());
  s->stats.prompt_tokens = prompt.size();
  s->stats.reused_tokens = common;
  s->began = now;
  active_ = std::move(s);
}

std::shared_ptr<const step> sequencer::next_step(clock::time_point now) {
  if (step_out_)
    return nullptr;
  if (!active_) {
    if (queue_.empty())
      return nullptr;
    activate(now);
  }
  auto& s = *active_;
  if (s.waiting_for_client || s.pending.empty())
    return nullptr;
  const std::size_t most = s.request.score ? std::min(shape_.step_rows, shape_.logit_rows) : shape_.step_rows;
  s.in_step = std::min(most, s.pending.size());
  s.step_position = cached_.size();

  auto work = std::make_shared<step>();
  work->ids.assign(s.pending.begin(), s.pending.begin() + static_cast<std::ptrdiff_t>(s.in_step));
  work->sequences.push_back({0, s.in_step, s.step_position, {pages_->data(), 0}});
  work->keeps = pages_; // a step may be computed still when its scheduler is gone
  if (s.request.score)
    for (std::size_t row = 0; row < s.in_step; ++row)
      work->logit_rows.push_back(row);
  else if (s.in_step == s.pending.size())
    work->logit_rows.push_back(s.in_step - 1);
  step_out_ = true;
  return work;
}

sequencer::after_step sequencer::step_done(std::span<const float> logits, const step_times& times,
                                           clock::time_point now) {
  step_out_ = false;
  if (!active_)
    return {};
  auto& s = *active_;
  const auto end = s.pending.begin() + static_cast<std::ptrdiff_t>(s.in_step);
  cached_.insert(cached_.end(), s.pending.begin(), end);
  s.pending.erase(s.pending.begin(), end);
  const bool decoding = s.stats.generated_tokens > 0;
  (decoding ? s.stats.compute_seconds : s.stats.prefill_compute_seconds) += times.compute;
  (decoding ? s.stats.load_seconds : s.stats.prefill_load_seconds) += times.load;
  if (s.cancelled) {
    finish(finish_reason::cancelled, now);
    return {};
  }
  if (s.request.score) {
    s.waiting_for_client = true;
    s.request.sink->logits(s.step_position, s.in_step, logits);
    return {};
  }
  if (!s.pending.empty())
    return {};
  step_out_ = true; // until `sampled`: the logits are in use
  return {true, s.request.options.sampling, s.stats.generated_tokens};
}

void sequencer::step_failed(const error& why) {
  step_out_ = false;
  if (active_)
    active_->request.sink->failed(why);
  active_.reset();
  cached_.clear(); // the pages may hold half a step
}

void sequencer::logits_consumed(request_id id, clock::time_point now) {
  if (!active_ || active_->request.id != id || !active_->waiting_for_client)
    return;
  active_->waiting_for_client = false;
  if (active_->pending.empty())
    finish(finish_reason::stop, now);
}

void sequencer::emit(token_id token) {
  auto& s = *active_;
  s.request.sink->token({token, std::string(s.text.push(tokenizer_.piece(token)))});
}

void sequencer::sampled(token_id token, clock::time_point now) {
  step_out_ = false;
  if (!active_)
    return;
  auto& s = *active_;
  if (token < 0) {
    step_failed(error(errc::malformed_file, "the model gave no finite logits; its weights are damaged"));
    return;
  }
  if (s.stats.generated_tokens == 0) {
    s.first_token = now;
    s.stats.first_token_seconds = seconds(now - s.request.submitted);
    s.stats.prefill_seconds = seconds(now - s.began);
  }
  if (s.cancelled)
    return finish(finish_reason::cancelled, now);
  const auto& options = s.request.options;
  if (options.max_tokens == 0)
    return finish(finish_reason::length, now);
  if (!options.ignore_eos && tokenizer_.ends_generation(token)) {
    ++s.stats.generated_tokens;
    s.request.sink->token({token, {}});
    return finish(finish_reason::stop, now);
  }
  ++s.stats.generated_tokens;
  emit(token);
  if (s.stats.generated_tokens >= options.max_tokens)
    return finish(finish_reason::length, now);
  if (cached_.size() + 1 > shape_.context)
    return finish(finish_reason::context, now);
  s.pending.push_back(token);
}

void sequencer::finish(finish_reason reason, clock::time_point now) {
  auto& s = *active_;
  if (const auto rest = s.text.finish(); !rest.empty())
    s.request.sink->token({-1, std::string(rest)});
  s.stats.finish = reason;
  if (s.stats.generated_tokens > 0)
    s.stats.decode_seconds = seconds(now - s.first_token);
  else
    s.stats.prefill_seconds = seconds(now - s.began);
  s.request.sink->finished(s.stats);
  active_.reset();
}

} // namespace tropilla
