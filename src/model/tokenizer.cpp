// Tokenises text: special tokens split it, the pre-tokenizer splits the rest into words, and merging does the words.
#include "src/model/tokenizer.hpp"

#include "memory/bytes.hpp"
#include "memory/rounding.hpp"
#include "src/model/vocabulary.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>

namespace tropilla {

struct tokenizer::impl {
  explicit impl(const gguf_file& file) : vocab(vocabulary::read(file)), pre(vocab.cut) {
    for (std::size_t i = 0; i < vocab.texts.size(); ++i)
      longest = std::max(longest, vocab.texts[i].size());
  }

  void encode_text(std::string_view text, std::vector<token_id>& out) const;
  void require_id(token_id id) const;

  vocabulary vocab;
  pretokenizer pre;
  std::size_t longest = 1; ///< bytes of a token
};

// Bytes that no token spells are dropped, as Hugging Face's tokenizers does: vocabularies may lack those that occur in
// no UTF-8 text.
void tokenizer::impl::encode_text(std::string_view text, std::vector<token_id>& out) const {
  if (text.empty())
    return;
  // Positions within a word have 32 bits.
  if (text.size() >= std::numeric_limits<std::uint32_t>::max())
    throw error(errc::invalid_argument,
                fmt::format("a text of {} is too long: tokenise at most 4 GiB at once", format_bytes(text.size())));
  pretokenizer::words words(pre, text);
  bpe_merger merger;
  std::vector<token_id> bytes;
  while (const auto word = words.next()) {
    if (vocab.whole_words)
      if (const token_id id = vocab.words.find(vocab.texts, *word); id >= 0) {
        out.push_back(id);
        continue;
      }
    bytes.clear();
    for (const char c : *word)
      if (const token_id id = vocab.byte_ids[static_cast<unsigned char>(c)]; id >= 0)
        bytes.push_back(id);
    merger.merge(vocab.merges, bytes, out);
  }
}

void tokenizer::impl::require_id(token_id id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= vocab.texts.size())
    throw error(errc::invalid_argument,
                fmt::format("token {} is out of range: the vocabulary has {} tokens, from 0 to {}", id,
                            vocab.texts.size(), vocab.texts.size() - 1));
}

tokenizer::tokenizer(const gguf_file& file) : impl_(std::make_unique<impl>(file)) {}
tokenizer::~tokenizer() = default;
tokenizer::tokenizer(tokenizer&&) noexcept = default;
tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;

std::vector<token_id> tokenizer::encode(std::string_view text, const encode_options& options) const {
  const vocabulary& v = impl_->vocab;
  std::vector<token_id> ids;
  if (options.bos && v.bos >= 0 && !(options.special && begins_with_bos(text)))
    ids.push_back(v.bos);
  while (options.special) {
    const auto special = v.specials.search(v.texts, text);
    if (!special)
      break;
    impl_->encode_text(text.substr(0, special->at), ids);
    ids.push_back(special->id);
    text.remove_prefix(special->at + special->length);
  }
  impl_->encode_text(text, ids);
  return ids;
}

std::size_t tokenizer::min_tokens(std::string_view text) const noexcept {
  // Bytes that no token spells may be dropped.
  const auto spelt =
      std::ranges::count_if(text, [this](char c) { return impl_->vocab.byte_ids[static_cast<unsigned char>(c)] >= 0; });
  return divide_up(static_cast<std::size_t>(spelt), impl_->longest);
}

bool tokenizer::begins_with_bos(std::string_view text) const {
  const auto first = impl_->vocab.specials.match_front(impl_->vocab.texts, text);
  return first && first->id == impl_->vocab.bos;
}

std::string_view tokenizer::piece(token_id id, bool special) const {
  impl_->require_id(id);
  return is_control(id) && !special ? std::string_view{} : impl_->vocab.texts[static_cast<std::size_t>(id)];
}

std::string tokenizer::decode(std::span<const token_id> ids, bool special) const {
  std::string text;
  for (const token_id id : ids)
    text += piece(id, special);
  return text;
}

std::size_t tokenizer::size() const noexcept {
  return impl_->vocab.texts.size();
}
token_id tokenizer::bos() const noexcept {
  return impl_->vocab.bos;
}
token_id tokenizer::eos() const noexcept {
  return impl_->vocab.eos;
}
bool tokenizer::add_bos() const noexcept {
  return impl_->vocab.add_bos;
}

std::span<const std::string> tokenizer::notices() const noexcept {
  return impl_->vocab.notices;
}

bool tokenizer::ends_generation(token_id id) const noexcept {
  return std::ranges::binary_search(impl_->vocab.ends, id);
}

bool tokenizer::is_control(token_id id) const noexcept {
  if (id < 0 || static_cast<std::size_t>(id) >= impl_->vocab.kinds.size())
    return false;
  const token_kind kind = impl_->vocab.kinds[static_cast<std::size_t>(id)];
  return kind == token_kind::control || kind == token_kind::unused;
}

std::optional<token_id> tokenizer::find_special(std::string_view text) const {
  return impl_->vocab.specials.find(impl_->vocab.texts, text);
}

} // namespace tropilla
