// Has pages saved that sequences give up, and those restored that sequences begin with.
#include "src/schedule/batcher.hpp"

#include <algorithm>
#include <utility>

namespace tropilla {

/// The keys of the full pages of its first tokens. @pre there is a store
std::span<const page_key> batcher::keys_of(sequence& s, std::size_t tokens) const {
  add_page_keys(memory_.store->root(), {s.tokens.data(), tokens}, s.page_keys);
  return {s.page_keys.data(), tokens / kv_page_tokens};
}

/// Has the pages of these keys moved, from `first` on. `tokens` begins with what is on them.
std::shared_ptr<page_move> batcher::start_move(page_move::direction way, open_move m, std::span<const token_id> tokens,
                                               std::span<const page_key> keys, std::size_t first) {
  auto move = std::make_shared<page_move>();
  move->way = way;
  const auto all = tokens.first(keys.size() * kv_page_tokens);
  move->tokens.assign(all.begin(), all.end());
  move->keys.assign(keys.begin(), keys.end());
  move->pages = m.path.pages;
  move->first = first;
  move->table = table_of(move->pages);
  m.move = move;
  wanted_moves_.push_back(move);
  moves_.push_back(std::move(m));
  return move;
}

bool batcher::saving() const {
  return std::ranges::any_of(moves_, [](const open_move& m) { return m.move->way == page_move::direction::save; });
}

/// Sequences that wait for what is restored.
std::size_t batcher::restoring() const {
  return static_cast<std::size_t>(std::ranges::count_if(moves_, [](const open_move& m) { return m.of != nullptr; }));
}

bool batcher::is_restoring(const sequence_ptr& s) const {
  return std::ranges::find(moves_, s, &open_move::of) != moves_.end();
}

bool batcher::is_restoring(page_key key) const {
  return std::ranges::any_of(moves_, [&](const open_move& m) {
    return m.move->way == page_move::direction::restore && !m.is_void &&
           std::ranges::find(m.move->keys, key) != m.move->keys.end();
  });
}

/// Has the full pages of a sequence that gives them up saved, except for those that are. They stay in use meanwhile.
void batcher::save(const sequence_ptr& s) {
  if (!memory_.store || s->scored() || s->shared->failure || !costs_.worth_moving(now_))
    return;
  const auto keys = keys_of(*s, s->path.tokens);
  const std::size_t first = memory_.store->stored(keys);
  if (first < keys.size())
    (void)start_move(page_move::direction::save, {nullptr, pages_.hold(s->path, keys.size())}, s->tokens, keys, first);
}

/// The pages that a sequence may have restored behind its first `pages`, which the devices have.
std::size_t batcher::restorable(sequence& s, std::size_t pages) const {
  if (!memory_.store || !costs_.worth_moving(now_))
    return 0;
  const auto keys = keys_of(s, findable(s).size());
  return keys.size() > pages ? memory_.store->stored(keys.subspan(pages)) : 0;
}

/// Has the pages of these keys restored, as far as the devices lack them. `of`: the sequence that waits for it, or
/// null. Null: there is no page for any of it.
std::shared_ptr<page_move> batcher::start_restore(std::span<const token_id> tokens, std::span<const page_key> keys,
                                                  const sequence_ptr& of) {
  auto path = pages_.find_full(tokens.first(keys.size() * kv_page_tokens));
  const std::size_t first = path.pages.size();
  while (path.pages.size() < keys.size() && pages_.extend(path)) {
  }
  if (path.pages.size() == first) {
    pages_.release(path);
    return nullptr;
  }
  const auto found = keys.first(path.pages.size());
  return start_move(page_move::direction::restore, {nullptr, std::move(path), of}, tokens, found, first);
}

bool batcher::wait_for_beginning(request_id borrower, std::span<const token_id> tokens) {
  if (!memory_.store || loans_.contains(borrower))
    return false;
  const auto it = beginnings_.try_emplace(borrower).first;
  const auto end = [&] {
    beginnings_.erase(it);
    return false;
  };
  if (it->second) {
    const bool moves = std::ranges::find(moves_, it->second, &open_move::move) != moves_.end();
    return moves || end();
  }
  std::vector<page_key> keys;
  add_page_keys(memory_.store->root(), tokens, keys);
  const auto here = pages_.matching(tokens);
  const std::size_t found = here.pages;
  const std::size_t stored = memory_.store->stored(std::span(keys).subspan(found));
  if (stored == 0)
    return end();
  if (is_restoring(keys[found]) || (saving() && stored + here.idle_pages > pages_.available())) // which ends by itself
    return true;
  loan_asked_ = wait_for_extents(stored);
  if (loan_asked_)
    return true;
  it->second = start_restore(tokens, std::span(keys).first(found + stored), nullptr);
  return it->second != nullptr || end();
}

/// Has what the sequences that go next are about to restore brought near, once for each.
void batcher::prefetch(std::set<sequence_ptr, before>::const_iterator first) {
  constexpr std::size_t ahead = 4;
  for (std::size_t i = 0; memory_.store && i < ahead && first != waiting_.end(); ++i, ++first) {
    auto& s = **first;
    if (std::exchange(s.prefetched, true))
      continue;
    const std::size_t found = pages_.matching(findable(s)).pages;
    if (const auto stored = restorable(s, found); stored > 0)
      (void)start_move(page_move::direction::prefetch, {}, s.tokens, std::span(s.page_keys).first(found + stored),
                       found);
  }
}

/// Ends the moves that are over. @pre no step is in flight
void batcher::settle_moves(clock::time_point now) {
  for (std::size_t i = 0; i < moves_.size();) {
    if (!moves_[i].move->over) {
      ++i;
      continue;
    }
    auto ended = std::move(moves_[i]);
    moves_.erase(moves_.begin() + static_cast<std::ptrdiff_t>(i));
    end_move(ended, now);
  }
}

void batcher::end_move(open_move& m, clock::time_point now) {
  auto& move = *m.move;
  move.table.reset(); // the mover may keep the move a moment longer, and should keep no memory
  if (move.way == page_move::direction::restore && !m.is_void) {
    costs_.restored(move.moved, move.seconds, now);
    pages_.append(m.path, std::span(move.tokens).subspan(move.first * kv_page_tokens, move.moved * kv_page_tokens));
    if (m.of) {
      waiting_.erase(m.of);
      return activate(m.of, now, std::move(m.path));
    }
  }
  pages_.release(m.path);
}

/// Voids the moves after the pages were forgotten: those that have started may still read and write theirs.
void batcher::void_moves() {
  std::erase_if(moves_,
                [this](const open_move& m) { return std::ranges::find(wanted_moves_, m.move) != wanted_moves_.end(); });
  wanted_moves_.clear();
  for (auto& m : moves_) {
    m.is_void = true;
    m.of = nullptr;
    pages_.occupy(m.path);
  }
}

} // namespace tropilla
