// Chooses the requests of each step, and handles the tokens that a step computed.
#include "src/schedule/batcher.hpp"

#include "src/sampling/draw.hpp"

#include <algorithm>
#include <cassert>
#include <fmt/format.h>
#include <utility>

namespace tropilla {
namespace {

batcher::clock::time_point after(batcher::clock::time_point from, double wait) {
  if (wait <= 0)
    return batcher::clock::time_point::max();
  return from + std::chrono::duration_cast<batcher::clock::duration>(std::chrono::duration<double>(wait));
}

} // namespace

batcher::batcher(const tokenizer& tok, const run_shape& shape, std::size_t max_waiting, logger log, kv_memory memory)
    : tokenizer_(tok), shape_(shape), max_waiting_(max_waiting), log_(std::move(log)), memory_(std::move(memory)),
      pages_(kv_pages_for(shape.kv_tokens), memory_.extent_pages) {
  if (memory_.page_bytes.empty())
    return;
  table_ = std::make_shared<kv_page_table>();
  table_->extents.resize(pages_.extents());
  table_->starts.assign(memory_.page_bytes.size(), std::vector<std::byte*>(pages_.size()));
}

batcher::~batcher() {
  for (const auto& [id, r] : requests_)
    r->outputs.clear(); // they refer to each other
}

batch_usage batcher::usage() const noexcept {
  return {active_.size(), waiting_.size(), pages_.in_use(), pages_.cached(), preemptions_, arrivals_};
}

// -- requests come and go --------------------------------------------------------------------------------------------

void batcher::submit(sequence_request request) {
  if (waiting_.size() >= max_waiting_)
    throw error(errc::busy,
                fmt::format("{} requests wait already and the queue holds no more; try again later", waiting_.size()));
  const auto id = request.id;
  const auto& o = request.options;
  const auto deadline = after(request.submitted, o.deadline_seconds);
  const auto timeout = after(request.submitted, o.timeout_seconds);
  auto r = std::make_shared<shared_request>(std::move(request), arrivals_++);
  r->deadline = deadline;
  r->timeout = timeout;
  r->stats.prompt_tokens = r->request.prompt.size();
  r->outputs.push_back(std::make_shared<sequence>(r, 0));
  r->unfinished = r->request.score ? 1 : r->request.options.outputs;
  waiting_.insert(r->outputs.front());
  log_.accepted(*r, requests_.size());
  requests_.emplace(id, std::move(r));
}

void batcher::cancel(request_id id, clock::time_point now) {
  const auto it = requests_.find(id);
  if (it == requests_.end())
    return;
  const auto r = it->second;
  r->cancelled = true;
  if (busy_with(*r))
    return;
  end_request(r, now);
  give_back_empty();
}

void batcher::fail_all(const error& why) {
  log_.all_failed(requests_.size(), why);
  while (!requests_.empty()) { // one after another, so that another call goes on where memory was refused
    const auto r = requests_.begin()->second;
    r->outputs.clear(); // they refer to each other
    r->request.sink->failed(why);
    requests_.erase(requests_.begin());
  }
  for (const auto& s : active_)
    pages_.release(s->path);
  active_.clear();
  waiting_.clear();
  copies_.clear();
  draws_.clear();
  in_step_.clear();
  computing_.reset();
  done_.reset();
  scored_unread_.reset();
  drop_table(last_step_);
  step_asked_ = loan_asked_ = waits_for_pages_ = false;
  pages_.clear(); // a step may have been half done
  void_loans();
  void_moves();
  give_back_empty();
}

/// Whether the request's pages or logits are in use.
bool batcher::busy_with(const shared_request& r) {
  return std::ranges::any_of(r.outputs, [](const sequence_ptr& s) { return s->in_step > 0; });
}

/// Ends a request before its outputs do: it was cancelled, or something failed.
void batcher::end_request(const std::shared_ptr<shared_request>& r, clock::time_point now) {
  requests_.erase(r->request.id);
  if (scored_unread_ == r->request.id)
    scored_unread_.reset();
  const auto outputs = std::exchange(r->outputs, {}); // they refer to each other
  for (const auto& s : outputs) {
    for (auto& m : moves_)
      if (m.of == s)
        m.of = nullptr;
    waiting_.erase(s);
    deactivate(s);
  }
  if (r->failure) {
    log_.failed(*r, *r->failure);
    return r->request.sink->failed(*r->failure);
  }
  log_.cancelled(*r);
  auto& stats = r->stats;
  stats.finish = finish_reason::cancelled;
  if (r->first_token)
    stats.decode_seconds = in_seconds(now - *r->first_token);
  else if (r->began)
    stats.prefill_seconds = in_seconds(now - *r->began);
  r->request.sink->finished(stats);
}

/// Ends requests that were given up, timed out or failed, as far as nothing of them is being computed.
void batcher::settle_endings(clock::time_point now) {
  std::vector<std::shared_ptr<shared_request>> due;
  for (const auto& [id, r] : requests_) {
    if (r->request.abandoned && *r->request.abandoned)
      r->cancelled = true;
    if (now >= r->timeout && !r->failure)
      r->failure = error(errc::timed_out, fmt::format("the reply took longer than its limit of {} seconds; {} of its "
                                                      "tokens had come",
                                                      r->request.options.timeout_seconds, r->stats.generated_tokens));
    if ((r->cancelled || r->failure) && !busy_with(*r))
      due.push_back(r);
  }
  for (const auto& r : due)
    end_request(r, now);
}

std::optional<batcher::clock::time_point> batcher::next_timeout() const {
  auto first = clock::time_point::max();
  for (const auto& [id, r] : requests_)
    first = std::min(first, r->timeout);
  return first == clock::time_point::max() ? std::nullopt : std::optional(first);
}

// -- pages -----------------------------------------------------------------------------------------------------------

/// The tokens whose keys and values may be found when a sequence is admitted: the last token is always computed, since
/// its logits are wanted.
std::span<const token_id> batcher::findable(const sequence& s) {
  return {s.tokens.data(), s.scored() ? 0 : s.tokens.size() - 1};
}

/// Whether there are pages for its tokens, and one for each active sequence to grow on. The first one is always
/// admitted, unless others must leave, or pages will be free when they are saved.
bool batcher::can_admit(const sequence& s, const kv_pages::beginning& found, std::size_t active,
                        std::size_t available) const {
  if (!within_page_limit() && (by_force_ || active > 0))
    return false;
  const std::size_t wanted = kv_pages_for(std::min(s.tokens.size() + 1, shape_.context)) - found.pages;
  return (active == 0 && !saving()) || wanted + found.idle_pages + active <= available;
}

/// Admits the sequences that go first, `count` at most, or begins to restore them.
void batcher::admit(std::size_t count, clock::time_point now) {
  auto next = waiting_.begin();
  while (count > 0 && next != waiting_.end()) {
    const auto s = *next;
    if (is_restoring(s)) {
      ++next;
      continue;
    }
    const auto found = pages_.matching(findable(*s));
    if (!can_admit(*s, found, active_.size() + restoring(), pages_.available()))
      break;
    --count;
    ++next;
    const std::size_t stored = restorable(*s, found.pages);
    if (stored > 0 && is_restoring(s->page_keys[found.pages])) // for another one with the same beginning
      continue;
    if (stored > 0 && start_restore(s->tokens, std::span(s->page_keys).first(found.pages + stored), s)) {
      s->prefetched = true;
      continue;
    }
    waiting_.erase(s);
    activate(s, now);
  }
  prefetch(next);
}

/// `restored`: the pages of its beginning; else they are looked for.
void batcher::activate(const sequence_ptr& s, clock::time_point now, std::optional<kv_pages::path> restored) {
  auto& r = *s->shared;
  s->prefetched = false;
  if (restored) {
    s->path = *std::move(restored);
  } else if (!s->scored()) {
    std::optional<page_copy> copy;
    s->path = pages_.find(findable(*s), copy);
    if (copy)
      copies_.push_back(*copy);
  }
  if (!r.began) {
    r.began = now;
    r.stats.reused_tokens = s->path.tokens;
  }
  s->active = true;
  log_.admitted(*s, now);
  active_.insert(std::ranges::upper_bound(active_, s, before{}), s);
}

void batcher::deactivate(const sequence_ptr& s) {
  if (!std::exchange(s->active, false))
    return;
  save(s);
  pages_.release(s->path);
  active_.erase(std::ranges::find(active_, s));
  waits_for_pages_ = false;
}

/// Takes a sequence's pages away; what is on them is found again if they are not needed meanwhile.
void batcher::preempt(const sequence_ptr& s) {
  ++preemptions_;
  log_.preempted(*s);
  deactivate(s);
  waiting_.insert(s);
}

/// As `preempt`, except for the only sequence that has pages, which would come back and stand where it stands. It waits
/// where the limit is against another page, or where memory was refused before others left; it fails where memory is
/// refused to it alone.
void batcher::preempt_or_fail(const sequence_ptr& s) {
  const bool refused = pages_.refusal().has_value();
  if (active_.size() + restoring() > 1 || (!refused && pages_.limit() == pages_.extents()))
    return preempt(s);
  if (!refused || !tried_again_) {
    waits_for_pages_ = true;
    return;
  }
  s->shared->failure =
      error(errc::over_budget, fmt::format("there is no memory for another KV page: {}; end what holds "
                                           "the rest, or ask for less",
                                           *pages_.refusal()));
  deactivate(s);
}

/// Ensures that the next token has a KV page, if need be by preempting the sequences that are served last. False: that
/// was the sequence itself, or there will be pages when what is on them is saved.
bool batcher::ensure_page(const sequence_ptr& s) {
  while (s->path.tokens == s->path.pages.size() * kv_page_tokens && !pages_.extend(s->path)) {
    if (saving())
      return false;
    const auto last = active_.back();
    preempt_or_fail(last);
    if (last == s)
      return false;
  }
  return true;
}

/// The number of tokens, up to `tokens`, that there are pages for.
std::size_t batcher::tokens_with_pages(sequence& s, std::size_t tokens) {
  while (s.path.pages.size() * kv_page_tokens < s.path.tokens + tokens)
    if (!pages_.extend(s.path))
      return s.path.pages.size() * kv_page_tokens - s.path.tokens;
  return tokens;
}

// -- steps -----------------------------------------------------------------------------------------------------------

std::shared_ptr<const step> batcher::next_step(clock::time_point now) {
  settle_endings(now);
  if (computing_ || done_ || scored_unread_)
    return nullptr;
  now_ = now;
  settle_moves(now);
  keep_page_limit();
  const auto failed = [](const auto& r) { return r.second->failure.has_value(); };
  for (;;) {
    waits_for_pages_ = false;
    if (!unanswered_.empty())
      return nullptr;
    const bool short_of_memory = pages_.refusal().has_value();
    if (!step_asked_) {
      tried_again_ = active_.size() <= 1;
      if (tried_again_)
        pages_.try_again();
    }
    const bool admits = active_.empty() || !short_of_memory; // a waiting sequence would take what the active one needs
    const auto needs = needs_of_next_step(admits);
    step_asked_ = wait_for_extents(needs.pages);
    if (step_asked_)
      return nullptr;
    admit(needs.admissions, now);
    while (!computing_ && !active_.empty() && !waits_for_pages_) {
      computing_ = compose();
      if (computing_ || active_.empty() || saving())
        break;
      preempt_or_fail(sequence_ptr(active_.back())); // no prompt has a page for its next token
    }
    if (waits_for_pages_ && pages_.refusal()) // there may be memory for a single sequence
      continue;
    if (computing_ || std::ranges::none_of(requests_, failed))
      break;
    settle_endings(now); // of those that found no memory
  }
  if (!computing_) {
    give_back_empty();
    return nullptr;
  }
  computing_->copies = copies_;
  computing_->table = table_;
  return computing_;
}

std::shared_ptr<step> batcher::compose() {
  // A scored sequence has a step of its own, in turn with the others'.
  const auto scored = std::ranges::find_if(active_, [](const sequence_ptr& s) { return s->scored(); });
  const bool others = std::ranges::any_of(active_, [](const sequence_ptr& s) { return !s->scored(); });
  if (scored != active_.end() && !(others && scored_last_)) {
    scored_last_ = true;
    return compose_scored(sequence_ptr(*scored)); // which may be the last that is active, and have to leave
  }
  scored_last_ = false;
  auto next = blank_step(last_step_);
  active_before_ = active_; // some of them may have to give up their pages to others
  for (const auto& s : active_before_)
    if (s->active && !s->scored() && s->uncomputed_tokens() == 1 && next->logit_rows.size() < shape_.logit_rows &&
        ensure_page(s))
      add_tokens(*next, s, 1);
  active_before_.clear(); // a sequence that has ended meanwhile must not be held
  // Sequences that decode wait for the whole step, so it takes only half as many prompt tokens then.
  std::size_t prompt_tokens = shape_.max_batch_tokens - next->ids.size();
  if (!next->ids.empty())
    prompt_tokens = std::min(prompt_tokens, std::max<std::size_t>(shape_.max_batch_tokens / 2, 1));
  for (const auto& s : active_) {
    if (s->scored() || s->in_step > 0 || s->uncomputed_tokens() < 2 || prompt_tokens == 0)
      continue;
    std::size_t tokens = tokens_with_pages(*s, std::min(prompt_tokens, s->uncomputed_tokens()));
    if (tokens == s->uncomputed_tokens() && next->logit_rows.size() == shape_.logit_rows)
      --tokens;
    if (tokens > 0)
      add_tokens(*next, s, tokens);
    prompt_tokens -= tokens;
  }
  return next->ids.empty() ? nullptr : next;
}

std::shared_ptr<step> batcher::compose_scored(const sequence_ptr& s) {
  const std::size_t wanted = std::min({shape_.max_batch_tokens, shape_.logit_rows, s->uncomputed_tokens()});
  std::size_t tokens = tokens_with_pages(*s, wanted);
  if (tokens == 0)
    tokens = ensure_page(s) ? tokens_with_pages(*s, wanted) : 0;
  if (tokens == 0)
    return nullptr;
  auto next = blank_step(last_step_);
  add_tokens(*next, s, tokens);
  next->logit_rows.clear();
  next->top_k = 0;
  for (std::size_t row = 0; row < tokens; ++row)
    next->logit_rows.push_back(row);
  return next;
}

void batcher::add_tokens(step& to, const sequence_ptr& s, std::size_t tokens) {
  const std::size_t position = s->path.tokens;
  const auto first = s->tokens.begin() + static_cast<std::ptrdiff_t>(position);
  to.sequences.push_back({to.ids.size(), tokens, position});
  to.ids.insert(to.ids.end(), first, first + static_cast<std::ptrdiff_t>(tokens));
  const auto pages = s->path.pages.begin();
  to.pages.insert(to.pages.end(), pages, pages + static_cast<std::ptrdiff_t>(kv_pages_for(position + tokens)));
  if (tokens == s->uncomputed_tokens()) {
    const std::size_t k = sufficient_top_k(s->shared->request.options);
    const bool all = k == 0 || (to.top_k == 0 && !to.logit_rows.empty());
    to.top_k = all ? 0 : std::max(to.top_k, k);
    to.logit_rows.push_back(to.ids.size() - 1);
  }
  s->in_step = tokens;
  in_step_.push_back(s);
}

const std::vector<token_draw>& batcher::step_done(std::span<const float> logits, const step_times& times,
                                                  clock::time_point now) {
  draws_.clear();
  if (!computing_)
    return draws_;
  done_ = std::exchange(computing_, nullptr);
  for (const auto& c : std::exchange(copies_, {}))
    pages_.copied(c);
  if (done_->ids.size() > done_->sequences.size()) // not one token each
    costs_.computed(done_->ids.size(), times.compute + times.load);
  std::size_t logit_row = 0;
  for (std::size_t i = 0; i < in_step_.size(); ++i) {
    const auto& s = in_step_[i];
    const auto& computed = done_->sequences[i];
    auto& r = *s->shared;
    (s->generated > 0 ? r.stats.compute_seconds : r.stats.prefill_compute_seconds) += times.compute;
    (s->generated > 0 ? r.stats.load_seconds : r.stats.prefill_load_seconds) += times.load;
    if (s->path.tokens == computed.position) // else it was computed for the second time
      pages_.append(s->path, {s->tokens.data() + computed.position, computed.rows});
    if (s->scored()) {
      scored_unread_ = r.request.id;
      r.request.sink->logits(computed.position, computed.rows, logits);
    } else if (s->uncomputed_tokens() == 0) {
      if (s->generated > 0) {
        draws_.push_back({logit_row, s});
      } else {
        if (r.outputs.size() == 1)
          start_outputs(s->shared);
        for (const auto& output : r.outputs)
          draws_.push_back({logit_row, output});
      }
      ++logit_row;
    }
  }
  if (log_.step_done(done_->ids.size(), draws_.size(), now))
    log_.report(usage(), pages_.size(), now);
  if (draws_.empty())
    end_step(now);
  return draws_;
}

/// Starts the outputs of a request, which all begin with its prompt, computed once.
void batcher::start_outputs(const std::shared_ptr<shared_request>& r) {
  for (std::size_t i = 1; i < r->request.options.outputs; ++i)
    r->outputs.push_back(std::make_shared<sequence>(r, i));
}

void batcher::end_step(clock::time_point now) {
  for (const auto& s : in_step_)
    s->in_step = 0;
  in_step_.clear();
  draws_.clear();
  done_.reset();
  drop_table(last_step_);
  settle_endings(now);
  give_back_empty();
}

void batcher::step_failed(const error& why, clock::time_point now) {
  if (!computing_ && !done_)
    return;
  for (const auto& s : in_step_)
    s->shared->failure = why;
  for (const auto& c : std::exchange(copies_, {})) { // nobody knows how far they came
    for (const auto& s : active_)
      if (std::ranges::find(s->path.pages, c.to) != s->path.pages.end())
        s->shared->failure = why;
    pages_.spoil(c.to);
    pages_.copied(c);
  }
  computing_.reset();
  end_step(now);
}

void batcher::logits_lost() {
  if (!done_)
    return;
  draws_.clear();
  computing_ = std::exchange(done_, nullptr);
}

void batcher::logits_consumed(request_id id, clock::time_point now) {
  if (scored_unread_ != id)
    return;
  scored_unread_.reset();
  const auto it = requests_.find(id);
  if (it != requests_.end() && it->second->outputs.front()->uncomputed_tokens() == 0)
    finish(it->second->outputs.front(), {}, finish_reason::stop, now);
  give_back_empty();
}

// -- tokens ----------------------------------------------------------------------------------------------------------

void batcher::drawn(std::span<const drawn_token> tokens, clock::time_point now) {
  if (!done_ || tokens.size() != draws_.size())
    return;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    accept(std::const_pointer_cast<sequence>(draws_[i].of), tokens[i], now);
  end_step(now);
}

void batcher::accept(const sequence_ptr& s, const drawn_token& drawn, clock::time_point now) {
  auto& r = *s->shared;
  const auto& o = r.request.options;
  if (r.cancelled || r.failure)
    return;
  if (drawn.token < 0) {
    r.failure = error(errc::malformed_file, "the model gave no finite logits; its weights are damaged");
    return;
  }
  if (!r.first_token) {
    r.first_token = now;
    r.stats.first_token_seconds = in_seconds(now - r.request.submitted);
    r.stats.prefill_seconds = in_seconds(now - r.began.value_or(now));
    log_.first_token(r);
  }
  ++s->generated;
  ++r.stats.generated_tokens;
  piece p;
  p.id = drawn.token;
  p.output = s->output_index;
  p.logprobs = drawn.logprobs;
  const bool stop_token = std::ranges::find(o.stop_tokens, drawn.token) != o.stop_tokens.end();
  if (stop_token || (!o.ignore_eos && tokenizer_.ends_generation(drawn.token)))
    return finish(s, std::move(p), finish_reason::stop, now);
  p.text = s->stop.push(s->text.push(tokenizer_.piece(drawn.token)));
  if (s->stop.matched())
    return finish(s, std::move(p), finish_reason::stop, now);
  if (s->generated >= o.max_tokens)
    return finish(s, std::move(p), finish_reason::length, now);
  s->tokens.push_back(drawn.token);
  if (counts_tokens(s->sampling))
    s->history.push(drawn.token);
  if (s->tokens.size() > shape_.context) {
    if (!o.context_shift)
      return finish(s, std::move(p), finish_reason::context, now);
    shift_context(s);
  }
  send(s, std::move(p));
  if (!s->active)
    waiting_.insert(s); // an output that begins, or whose context moved
}

/// Forgets half of the tokens behind those that are kept, and has the rest computed again in their new places.
void batcher::shift_context(const sequence_ptr& s) {
  const auto keep = static_cast<std::ptrdiff_t>(s->shared->request.options.context_keep);
  const auto dropped = (std::ssize(s->tokens) - keep) / 2;
  deactivate(s); // while its tokens are those of its pages
  s->tokens.erase(s->tokens.begin() + keep, s->tokens.begin() + keep + dropped);
  s->page_keys.clear();
  log_.context_shifted(*s, static_cast<std::size_t>(dropped));
}

void batcher::send(const sequence_ptr& s, piece p) {
  switch (s->shared->request.sink->token(std::move(p))) {
  case client_wants::more:
    break;
  case client_wants::nothing:
    s->shared->cancelled = true;
    break;
  case client_wants::room_for_pieces:
    s->shared->failure =
        error(errc::cancelled, "the client reads its reply so slowly that as many pieces wait as may be unread");
    break;
  }
}

void batcher::finish(const sequence_ptr& s, piece last, finish_reason reason, clock::time_point now) {
  const auto r = s->shared;
  if (!s->scored()) {
    if (!s->stop.matched()) {
      last.text += s->stop.push(s->text.finish());
      last.text += s->stop.finish();
    }
    last.output = s->output_index;
    last.finish = reason;
    send(s, std::move(last));
  }
  deactivate(s);
  if (--r->unfinished > 0)
    return;
  auto& stats = r->stats;
  stats.finish = reason;
  if (r->first_token)
    stats.decode_seconds = in_seconds(now - *r->first_token);
  else
    stats.prefill_seconds = in_seconds(now - r->began.value_or(now));
  requests_.erase(r->request.id);
  log_.finished(*r);
  r->request.sink->finished(stats);
  r->outputs.clear(); // they refer to each other
}

} // namespace tropilla
