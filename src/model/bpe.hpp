/// Merges byte pairs over a vocabulary of byte strings.
///
/// Source: Sennrich et al. 2016; the byte alphabet of GPT-2's `encoder.py` (`bytes_to_unicode`).
#pragma once

#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// Replaces the characters of GPT-2's byte alphabet by the bytes that they stand for, at the end of `out`.
/// False, with `out` as it was, where `text` holds any other character.
[[nodiscard]] bool append_alphabet_bytes(std::string_view text, std::string& out);

/// The texts of all tokens, one behind the other: no allocation per token.
class token_texts {
public:
  void reserve(std::size_t tokens, std::size_t bytes);
  /// Ends the token whose bytes were put at the end of `bytes()`.
  void finish_token() { ends_.push_back(static_cast<std::uint32_t>(bytes_.size())); }
  [[nodiscard]] std::string& bytes() noexcept { return bytes_; }

  [[nodiscard]] std::size_t size() const noexcept { return ends_.size() - 1; }
  [[nodiscard]] std::string_view operator[](std::size_t id) const noexcept {
    return {bytes_.data() + ends_[id], ends_[id + 1] - ends_[id]};
  }
  [[nodiscard]] const char* address(std::size_t id) const noexcept { return bytes_.data() + ends_[id]; }

private:
  std::string bytes_;
  std::vector<std::uint32_t> ends_{0};
};

/// FNV-1a with 64 bits: it goes on from any prefix, so that a merge's two parts and their sum cost one pass.
class text_hash {
public:
  constexpr void add(char byte) noexcept { value_ = (value_ ^ static_cast<unsigned char>(byte)) * 0x100000001B3u; }
  [[nodiscard]] constexpr std::uint64_t value() const noexcept { return value_; }
  [[nodiscard]] static constexpr std::uint64_t of(std::string_view text) noexcept {
    text_hash h;
    for (const char c : text)
      h.add(c);
    return h.value();
  }

private:
  std::uint64_t value_ = 0xCBF29CE484222325u;
};

/// Text to id, by open addressing; half full at most. Refers to the texts that it is given with each call.
class token_index {
public:
  void reserve(std::size_t tokens);
  /// The id that already has this text, or none after inserting.
  [[nodiscard]] std::optional<token_id> insert(const token_texts& texts, token_id id);
  [[nodiscard]] token_id find(const token_texts& texts, std::string_view text) const noexcept {
    return find(texts, text, text_hash::of(text));
  }
  /// -1: none.
  [[nodiscard]] token_id find(const token_texts& texts, std::string_view text, std::uint64_t hash) const noexcept;
  void prefetch(std::uint64_t hash) const noexcept { __builtin_prefetch(&slots_[first_slot(hash)]); }
  /// Fetches the text that a later `find` will probably compare with.
  void prefetch_text(const token_texts& texts, std::uint64_t hash) const noexcept {
    if (const slot& s = slots_[first_slot(hash)]; s.id >= 0)
      __builtin_prefetch(texts.address(static_cast<std::size_t>(s.id)));
  }

private:
  struct slot {
    std::uint32_t tag = 0; ///< low bits of the hash
    token_id id = -1;
  };
  [[nodiscard]] std::size_t first_slot(std::uint64_t hash) const noexcept {
    return static_cast<std::size_t>(((hash ^ (hash >> 32)) * 0x9E3779B97F4A7C15u) >> shift_);
  }
  std::vector<slot> slots_ = std::vector<slot>(2);
  int shift_ = 63;
};

/// Ordered merges: which two neighbouring tokens become which third, the earlier the sooner.
class merge_table {
public:
  struct merge {
    token_id left;
    token_id right;
    token_id result;
  };
  static constexpr std::uint32_t none = 0xFFFFFFFFu;

  void reserve(std::size_t merges);
  /// Adds with the next rank. Of two merges of the same pair the first counts.
  void add(const merge& m);
  void prefetch(token_id left, token_id right) const noexcept { __builtin_prefetch(&slots_[first_slot(left, right)]); }

  /// The rank of the pair, or `none`.
  [[nodiscard]] std::uint32_t rank(token_id left, token_id right) const noexcept {
    for (std::size_t s = first_slot(left, right);; s = (s + 1) & (slots_.size() - 1)) {
      const std::uint32_t found = slots_[s];
      if (found == none || (merges_[found].left == left && merges_[found].right == right))
        return found;
    }
  }
  [[nodiscard]] token_id result(std::uint32_t rank) const noexcept { return merges_[rank].result; }

private:
  [[nodiscard]] std::size_t first_slot(token_id left, token_id right) const noexcept {
    const std::uint64_t pair =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
    return static_cast<std::size_t>(((pair ^ (pair >> 29)) * 0x9E3779B97F4A7C15u) >> shift_);
  }
  std::vector<merge> merges_; ///< by rank
  std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(2, none);
  int shift_ = 63;
};

/// Applies merges to the tokens of a word, lowest rank first and leftmost among equals, and keeps its memory for the
/// next word. One per thread.
class bpe_merger {
public:
  /// Merges `word` and appends what results to `out`. O(n log n), by a heap, for long words; short ones are scanned.
  void merge(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out);

private:
  struct symbol {
    token_id id;
    std::uint32_t rank; ///< of the pair with the next symbol; `none` too for a symbol that was merged away
    std::uint32_t previous;
    std::uint32_t next;
  };
  void merge_short(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out);
  void merge_long(const merge_table& merges, std::span<const token_id> word, std::vector<token_id>& out);

  std::vector<symbol> symbols_;
  std::vector<std::uint64_t> heap_; ///< rank << 32 | position: the smallest is the next merge
};

} // namespace tropilla
