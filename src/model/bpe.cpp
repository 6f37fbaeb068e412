// Implements merging with open addressing over flat arrays, since a vocabulary is built on the way to the first token.
#include "src/model/bpe.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

namespace tropilla {
namespace {

// The byte of each code point below U+0144, or -1. Printable characters of Latin-1 stand for themselves; the other 68
// bytes, in order, have the code points from U+0100.
constexpr std::array<std::int16_t, 0x144> make_alphabet() {
  std::array<std::int16_t, 0x144> table{};
  table.fill(-1);
  std::size_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    table[printable ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return table;
}
constexpr auto alphabet = make_alphabet();

// Slots for at most half to be taken, and the shift that leaves their index of 64 bits.
std::pair<std::size_t, int> table_size(std::size_t entries) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(2 * entries, 2));
  return {slots, 64 - std::countr_zero(slots)};
}

} // namespace

bool append_alphabet_bytes(std::string_view text, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::size_t code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      // All others of the alphabet have two bytes in UTF-8.
      const std::size_t second = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
      const bool two = code >= 0xC2 && code <= 0xDF && (second & 0xC0) == 0x80;
      code = two ? (code & 0x1F) << 6 | (second & 0x3F) : alphabet.size();
      ++i;
    }
    const int byte = code < alphabet.size() ? alphabet[code] : -1;
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(byte));
  }
  return true;
}

void token_texts::reserve(std::size_t tokens, std::size_t bytes) {
  ends_.reserve(tokens + 1);
  bytes_.reserve(bytes);
}

void token_index::reserve(std::size_t tokens) {
  const auto [slots, shift] = table_size(tokens);
  slots_.assign(slots, slot{});
  shift_ = shift;
}

std::optional<token_id> token_index::insert(const token_texts& texts, token_id id) {
  const std::string_view text = texts[static_cast<std::size_t>(id)];
  const std::uint64_t hash = text_hash::of(text);
  const auto tag = static_cast<std::uint32_t>(hash);
  std::size_t s = first_slot(hash);
  for (; slots_[s].id >= 0; s = (s + 1) & (slots_.size() - 1))
    if (slots_[s].tag == tag && texts[static_cast<std::size_t>(slots_[s].id)] == text)
      return slots_[s].id;
  slots_[s] = {tag, id};
  return std::nullopt;
}

token_id token_index::find(const token_texts& texts, std::string_view text, std::uint64_t hash) const noexcept {
  const auto tag = static_cast<std::uint32_t>(hash);
  for (std::size_t s = first_slot(hash); slots_[s].id >= 0; s = (s + 1) & (slots_.size() - 1))
    if (slots_[s].tag == tag && texts[static_cast<std::size_t>(slots_[s].id)] == text)
      return slots_[s].id;
  return -1;
}

void merge_table::reserve(std::size_t merges) {
  const auto [slots, shift] = table_size(merges);
  merges_.reserve(merges);
  slots_.assign(slots, none);
  shift_ = shift;
}

void merge_table::add(const merge& m) {
  const auto rank = static_cast<std::uint32_t>(merges_.size());
  merges_.push_back(m);
  std::size_t s = first_slot(m.left, m.right);
  for (; slots_[s] != none; s = (s + 1) & (slots_.size() - 1))
    if (merges_[slots_[s]].left == m.left && merges_[slots_[s]].right == m.right)
      return;
  slots_[s] = rank;
}

void bpe_merger::merge(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out) {
  // Up to about this length, looking at every pair beats the heap's bookkeeping.
  constexpr std::size_t scanned = 48;
  if (word.size() <= scanned)
    merge_short(merges, word, out);
  else
    merge_long(merges, word, out);
}

void bpe_merger::merge_short(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out) {
  symbols_.clear();
  for (std::size_t i = 0; i < word.size(); ++i)
    symbols_.push_back({word[i], i + 1 < word.size() ? merges.rank(word[i], word[i + 1]) : merge_table::none, 0, 0});
  while (symbols_.size() > 1) {
    const auto best = std::ranges::min_element(symbols_, {}, &symbol::rank); // the first of equals
    if (best->rank == merge_table::none)
      break;
    best->id = merges.result(best->rank);
    const auto next = symbols_.erase(best + 1);
    best->rank = next == symbols_.end() ? merge_table::none : merges.rank(best->id, next->id);
    if (best != symbols_.begin())
      (best - 1)->rank = merges.rank((best - 1)->id, best->id);
  }
  for (const symbol& s : symbols_)
    out.push_back(s.id);
}

void bpe_merger::merge_long(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out) {
  constexpr std::uint32_t none = merge_table::none;
  const auto n = static_cast<std::uint32_t>(word.size());
  symbols_.clear();
  heap_.clear();
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::uint32_t rank = i + 1 < n ? merges.rank(word[i], word[i + 1]) : none;
    symbols_.push_back({word[i], rank, i == 0 ? none : i - 1, i + 1 < n ? i + 1 : none});
    if (rank != none)
      heap_.push_back(std::uint64_t{rank} << 32 | i);
  }
  std::ranges::make_heap(heap_, std::greater{});
  const auto update = [&](std::uint32_t at) {
    symbol& s = symbols_[at];
    s.rank = s.next == none ? none : merges.rank(s.id, symbols_[s.next].id);
    if (s.rank != none) {
      heap_.push_back(std::uint64_t{s.rank} << 32 | at);
      std::ranges::push_heap(heap_, std::greater{});
    }
  };
  while (!heap_.empty()) {
    std::ranges::pop_heap(heap_, std::greater{});
    const std::uint64_t entry = heap_.back();
    heap_.pop_back();
    const auto at = static_cast<std::uint32_t>(entry);
    symbol& s = symbols_[at];
    if (s.rank != entry >> 32)
      continue; // one of the two has merged with another since
    s.id = merges.result(s.rank);
    symbol& gone = symbols_[s.next];
    gone.rank = none;
    s.next = gone.next;
    if (s.next != none)
      symbols_[s.next].previous = at;
    update(at);
    if (s.previous != none)
      update(s.previous);
  }
  for (std::uint32_t i = 0; i != none; i = symbols_[i].next)
    out.push_back(symbols_[i].id);
}

} // namespace tropilla
