// Lends pages that clients read or fill.
#include "src/schedule/batcher.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {

page_loan batcher::lend(request_id borrower, std::span<const token_id> tokens) {
  auto [it, added] = loans_.try_emplace(borrower);
  auto& loan = it->second;
  if (added) {
    loan.path = pages_.look_up(tokens);
    // Tokens that a step has yet to copy to a page are not there, although the page is to be found: steps come after
    // one another.
    while (!loan.path.pages.empty() &&
           std::ranges::find(copies_, loan.path.pages.back(), &page_copy::to) != copies_.end())
      pages_.shorten(loan.path);
    loan.tokens = loan.path.tokens;
  }
  return {loan.path.pages, loan.tokens, table_of(loan.path.pages)};
}

bool batcher::wait_for_loan(std::size_t tokens) {
  if (!unanswered_.empty())
    return true;
  if (tokens > shape_.context) // never: `lend_empty` says so
    return false;
  if (!loan_asked_)
    pages_.try_again();
  // `lend_empty` refuses what is beyond `available`.
  const bool possible = kv_pages_for(tokens) + active_.size() <= pages_.available();
  loan_asked_ = possible && wait_for_extents(kv_pages_for(tokens));
  return loan_asked_;
}

std::size_t batcher::pages_missing_for_loan(std::size_t tokens) const noexcept {
  const std::size_t wanted = kv_pages_for(tokens) + active_.size();
  const std::size_t available = pages_.free_held() + pages_.cached() + pages_.obtainable();
  return tokens > shape_.context || kv_pages_for(tokens) > pages_.size() ? 0 : wanted - std::min(wanted, available);
}

page_loan batcher::lend_empty(request_id borrower, std::size_t tokens) {
  if (const auto it = loans_.find(borrower); it != loans_.end())
    return {it->second.path.pages, it->second.tokens, table_of(it->second.path.pages)};
  const std::size_t wanted = kv_pages_for(tokens);
  if (tokens > shape_.context || wanted > pages_.size())
    throw error(
        errc::context_full,
        fmt::format("{} tokens do not fit the context of {}; open the model with a longer one", tokens, shape_.context),
        remedy::context);
  // One page more for each active sequence to grow on, as when a sequence is admitted.
  if (wanted + active_.size() > pages_.free_held() + pages_.cached() + pages_.obtainable()) {
    give_back_empty(); // that came for the loan
    throw error(errc::busy,
                fmt::format("{} tokens need {} KV pages, and {} of {} are in use; end a reply, or open the "
                            "model with more",
                            tokens, wanted, pages_.in_use(), pages_.size()),
                remedy::kv_tokens);
  }
  open_loan loan;
  loan.tokens = tokens;
  while (loan.path.pages.size() < wanted)
    if (!pages_.extend(loan.path)) {
      pages_.release(loan.path);
      give_back_empty();
      throw error(errc::over_budget, fmt::format("there is no memory for the KV pages of {} tokens: {}", tokens,
                                                 pages_.refusal().value_or("all are in use")));
    }
  const auto& lent = loans_.emplace(borrower, std::move(loan)).first->second.path.pages;
  return {lent, tokens, table_of(lent)};
}

bool batcher::take_filled(request_id borrower, std::span<const token_id> tokens) {
  const auto it = loans_.find(borrower);
  if (it == loans_.end() || it->second.is_void || it->second.tokens != tokens.size()) {
    (void)give_back(borrower);
    return false;
  }
  pages_.append(it->second.path, tokens);
  return give_back(borrower);
}

bool batcher::give_back(request_id borrower) {
  const auto it = loans_.find(borrower);
  if (it == loans_.end())
    return false;
  const bool valid = !it->second.is_void;
  pages_.release(it->second.path);
  loans_.erase(it);
  give_back_empty();
  return valid;
}

/// Voids the loans after the pages were forgotten. A borrower may be writing to its pages, so no other sequence may
/// have them.
void batcher::void_loans() {
  for (auto& [borrower, loan] : loans_) {
    loan.is_void = true;
    pages_.occupy(loan.path);
  }
}

} // namespace tropilla
