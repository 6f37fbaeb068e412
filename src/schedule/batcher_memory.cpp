// Asks for the extents that steps lack, gives back those on which nothing is, and keeps the limit of pages.
#include "src/schedule/batcher.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace tropilla {

// -- what is needed --------------------------------------------------------------------------------------------------

/// The pages that the next step could use, and the sequences that they let in. `admits`: whether any sequence is
/// admitted. Divides the step's tokens as `compose` does.
batcher::step_needs batcher::needs_of_next_step(bool admits) const {
  step_needs needs;
  std::size_t decoding = 0;
  for (const auto& s : active_)
    if (!s->scored() && s->uncomputed_tokens() == 1) {
      ++decoding;
      needs.pages += s->path.tokens == s->path.pages.size() * kv_page_tokens ? 1 : 0;
    }
  std::size_t prompt_tokens = shape_.max_batch_tokens - std::min(decoding, shape_.max_batch_tokens);
  if (decoding > 0)
    prompt_tokens = std::min(prompt_tokens, std::max<std::size_t>(shape_.max_batch_tokens / 2, 1));
  const std::size_t scored_tokens = std::min(shape_.max_batch_tokens, shape_.logit_rows);
  const auto add_chunk = [&](const sequence& s, std::size_t computed, std::size_t pages, std::size_t at_least) {
    const std::size_t tokens = std::min(s.scored() ? scored_tokens : prompt_tokens, s.tokens.size() - computed);
    const std::size_t end = kv_pages_for(computed + tokens);
    needs.pages += std::max(end - std::min(end, pages), at_least);
    prompt_tokens -= s.scored() ? 0 : tokens;
  };
  for (const auto& s : active_)
    if (s->scored() || s->uncomputed_tokens() > 1)
      add_chunk(*s, s->path.tokens, s->path.pages.size(), 0);
  std::size_t available = pages_.available();
  for (auto next = waiting_.begin(); admits && next != waiting_.end(); ++next) {
    if (is_restoring(*next))
      continue;
    const std::size_t active = active_.size() + restoring() + needs.admissions;
    if (active >= shape_.sequences)
      break;
    const auto found = pages_.matching(findable(**next));
    if (!can_admit(**next, found, active, available))
      break;
    available -= std::min(available, found.idle_pages);
    ++needs.admissions;
    if (const auto stored = restorable(**next, found.pages); stored > 0)
      needs.pages += stored;
    else
      add_chunk(**next, found.tokens, found.pages, 1); // the first may be a copy
  }
  return needs;
}

std::vector<std::size_t> batcher::page_demand(std::size_t first_horizon, std::size_t horizon) const {
  std::vector<std::size_t> out;
  std::vector<bool> counted(pages_.size());
  std::size_t pages = 0;
  // `has`: pages that hold its beginning already.
  const auto add = [&](const sequence& s, std::span<const page_number> has) {
    for (const auto n : has) {
      pages += counted[n] ? 0 : 1;
      counted[n] = true;
    }
    std::size_t tokens = s.tokens.size();
    if (!s.scored()) { // the last token of a reply is never computed
      const std::size_t max_tokens = s.shared->request.options.max_tokens;
      tokens += std::min(
          {out.empty() ? first_horizon : horizon, shape_.context, max_tokens - std::min(max_tokens, s.generated)});
      --tokens;
    }
    const std::size_t all = kv_pages_for(std::min(tokens, shape_.context));
    pages += all - std::min(all, has.size());
    out.push_back(std::min(pages, pages_.size()));
  };
  for (const auto& s : active_)
    add(*s, s->path.pages);
  std::vector<page_number> found;
  for (auto next = waiting_.begin(); next != waiting_.end() && out.size() < shape_.sequences; ++next) {
    found.clear();
    (void)pages_.matching(findable(**next), found);
    add(**next, found);
  }
  return out;
}

// -- extents come ----------------------------------------------------------------------------------------------------

/// Asks for extents until so many pages are free. Whether any answer is missing, also of those asked for before.
bool batcher::wait_for_extents(std::size_t pages) {
  const auto chosen = pages_.choose_extents(pages);
  wanted_.insert(wanted_.end(), chosen.begin(), chosen.end());
  unanswered_.insert(chosen.begin(), chosen.end());
  return !unanswered_.empty();
}

void batcher::extent_granted(extent_number e, std::vector<lease> memory) {
  if (unanswered_.erase(e) == 0)
    return;
  std::erase(wanted_, e);
  pages_.extent_granted(e);
  if (!table_ || memory.empty())
    return;
  auto& table = to_change(table_);
  const auto first = e * pages_.extent_pages();
  for (std::size_t device = 0; device < memory.size(); ++device)
    for (std::size_t i = 0; memory[device].data() != nullptr && i < pages_.pages_of(e); ++i)
      table.starts[device][first + i] = memory[device].data() + i * memory_.page_bytes[device];
  table.extents[e] = std::move(memory);
}

void batcher::extent_refused(extent_number e, std::string why) {
  if (unanswered_.erase(e) == 0)
    return;
  std::erase(wanted_, e);
  pages_.extent_refused(e, std::move(why));
}

void batcher::extents_lost() {
  wanted_.assign(unanswered_.begin(), unanswered_.end());
  loan_asked_ = false; // who asked for it is gone, too
}

// -- extents go ------------------------------------------------------------------------------------------------------

/// Drops the memory of extents.
void batcher::given_up(std::span<const extent_number> extents) {
  if (!table_ || extents.empty())
    return;
  auto& table = to_change(table_);
  for (const auto e : extents) {
    table.extents[e].clear();
    const auto first = static_cast<std::ptrdiff_t>(e * pages_.extent_pages());
    for (auto& starts : table.starts)
      std::fill_n(starts.begin() + first, pages_.pages_of(e), nullptr);
  }
}

/// Gives up the extents on which nothing is. One stays for sequences to grow on.
void batcher::give_back_empty() {
  if (step_asked_ || loan_asked_) // they were asked for because pages are needed
    return;
  given_up(pages_.give_up_empty(active_.empty() ? 0 : 1));
}

std::size_t batcher::give_back_cached(std::size_t bytes) {
  if (memory_.page_bytes.empty())
    return 0;
  const std::size_t page_bytes = std::ranges::max(memory_.page_bytes);
  std::size_t given = 0;
  while (given < bytes) {
    const auto gone = pages_.give_up_cached(divide_up(bytes - given, page_bytes * pages_.extent_pages()));
    if (gone.empty())
      break;
    given_up(gone);
    for (const auto e : gone)
      given += pages_.pages_of(e) * page_bytes;
  }
  return given;
}

void batcher::idle_for_a_while() {
  give_back_empty();
  if (memory_.store && costs_.worth_moving(now_) && !memory_.page_bytes.empty()) // else nobody has them
    (void)give_back_cached(pages_.size() * std::ranges::max(memory_.page_bytes));
}

// -- the limit -------------------------------------------------------------------------------------------------------

void batcher::set_page_limit(std::size_t pages, bool by_force) {
  pages_.set_limit(pages >= pages_.size() ? pages_.extents() : pages / pages_.extent_pages());
  by_force_ = by_force;
  waits_for_pages_ = false; // until the next step shows it
}

/// Gives up what exceeds the limit, as far as it may: pages that are being saved go later. @pre no step is in flight
void batcher::keep_page_limit() {
  assert(copies_.empty()); // to a page that may be given up here
  const auto excess = [this] { return pages_.held() - std::min(pages_.held(), pages_.limit()); };
  given_up(pages_.give_up_cached(excess()));
  while (by_force_ && excess() > 0 && !active_.empty() && !saving()) {
    preempt(sequence_ptr(active_.back()));
    given_up(pages_.give_up_cached(excess()));
  }
}

void batcher::no_more_pages(const error& why) {
  if (waits_for_pages_)
    active_.front()->shared->failure = why;
}

/// The places of these pages, and the memory of their extents only: what a client holds keeps no other.
std::shared_ptr<const kv_page_table> batcher::table_of(std::span<const page_number> pages) const {
  if (!table_)
    return nullptr;
  auto out = std::make_shared<kv_page_table>();
  out->extents.resize(pages_.extents());
  out->starts.assign(table_->starts.size(), std::vector<std::byte*>(pages_.size()));
  for (const auto n : pages) {
    out->extents[n / pages_.extent_pages()] = table_->extents[n / pages_.extent_pages()];
    for (std::size_t device = 0; device < out->starts.size(); ++device)
      out->starts[device][n] = table_->starts[device][n];
  }
  return out;
}

} // namespace tropilla
