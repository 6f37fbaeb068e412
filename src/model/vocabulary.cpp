// Every id, type and merge is checked against the tokens before anything relies on it.
#include "src/model/vocabulary.hpp"

#include "src/model/utf8.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <limits>
#include <utility>

namespace tropilla {
namespace {

constexpr std::string_view key_tokens = "tokenizer.ggml.tokens";
constexpr std::string_view key_types = "tokenizer.ggml.token_type";
constexpr std::string_view key_merges = "tokenizer.ggml.merges";

[[noreturn]] void fail(const std::string& sentence) {
  throw error(errc::malformed_file, sentence);
}

const std::vector<std::string>& require_strings(const gguf_file& file, std::string_view key) {
  const gguf_array* array = file.find_array(key);
  if (array == nullptr)
    fail(fmt::format("the vocabulary lacks {}: convert the model again, with its tokenizer", key));
  const auto* strings = std::get_if<std::vector<std::string>>(&array->values);
  if (strings == nullptr || strings->empty())
    fail(fmt::format("{} must be an array of strings, and not empty", key));
  return *strings;
}

// Names that structure a conversation. Some fine-tuned models declare them as text, so that a user could type them.
constexpr std::array<std::string_view, 9> structural_names{"<|im_start|>",        "<|im_end|>",        "<|endoftext|>",
                                                           "<|begin_of_text|>",   "<|end_of_text|>",   "<|eot_id|>",
                                                           "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"};
constexpr std::array<std::string_view, 5> ending_names{"<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>",
                                                       "<|eom_id|>"};

token_kind kind_of(std::int64_t type, std::size_t id, std::string_view text) {
  if (type < 0 || type > 6)
    fail(fmt::format("{}[{}] is {}; types are 0 to 6", key_types, id, type));
  if (text.starts_with("<|") && std::ranges::find(structural_names, text) != structural_names.end())
    return token_kind::control;
  switch (type) {
  case 2: // unknown
  case 3:
    return token_kind::control;
  case 4:
    return token_kind::added;
  case 5:
    return token_kind::unused;
  default: // undefined, normal, byte
    return token_kind::text;
  }
}

std::vector<token_kind> read_kinds(const gguf_file& file, const std::vector<std::string>& tokens) {
  const gguf_array* array = file.find_array(key_types);
  if (array == nullptr)
    fail(fmt::format("the vocabulary lacks {}: without it special tokens cannot be told from text", key_types));
  if (array->size() != tokens.size())
    fail(fmt::format("{} has {} entries for {} tokens", key_types, array->size(), tokens.size()));
  std::vector<token_kind> kinds(tokens.size());
  const auto convert = [&](const auto& types) {
    for (std::size_t id = 0; id < kinds.size(); ++id)
      // What does not fit a signed number is no type either.
      kinds[id] =
          kind_of(std::in_range<std::int64_t>(types[id]) ? static_cast<std::int64_t>(types[id]) : -1, id, tokens[id]);
  };
  if (const auto* as_signed = std::get_if<std::vector<std::int64_t>>(&array->values))
    convert(*as_signed);
  else if (const auto* as_unsigned = std::get_if<std::vector<std::uint64_t>>(&array->values))
    convert(*as_unsigned);
  else
    fail(fmt::format("{} must be an array of whole numbers", key_types));
  return kinds;
}

void read_texts(vocabulary& v, const std::vector<std::string>& tokens) {
  std::size_t bytes = 0;
  for (const std::string& token : tokens)
    bytes += token.size();
  if (!std::in_range<token_id>(tokens.size()) || !std::in_range<std::uint32_t>(bytes))
    fail(fmt::format("a vocabulary of {} tokens in {} bytes is too large: ids have 31 bits", tokens.size(), bytes));
  v.texts.reserve(tokens.size(), bytes);
  v.words.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const bool spelt = v.kinds[id] == token_kind::text && append_alphabet_bytes(tokens[id], v.texts.bytes());
    if (!spelt)
      v.texts.bytes() += tokens[id];
    v.texts.finish_token();
    if (spelt && !tokens[id].empty())
      if (const auto twin = v.words.insert(v.texts, static_cast<token_id>(id)))
        fail(fmt::format("tokens {} and {} are both {}", *twin, id, utf8::quoted(tokens[id])));
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    v.byte_ids[byte] = v.words.find(v.texts, {&text, 1});
  }
  if (const auto twins = v.specials.assign(v.texts, v.kinds))
    fail(fmt::format("tokens {} and {} are both {}", twins->first, twins->second,
                     utf8::quoted(tokens[static_cast<std::size_t>(twins->first)])));
}

// Reads merges a batch at a time, so that the look-ups of a batch wait for memory together: there are three for each
// merge, and one at a time they cost three times as much.
class merge_reader {
public:
  explicit merge_reader(vocabulary& v) : v_(v) {}

  void read(const std::vector<std::string>& merges) {
    v_.merges.reserve(merges.size());
    for (std::size_t i = 0; i < merges.size(); i += batch) {
      count_ = std::min(batch, merges.size() - i);
      bytes_.clear();
      for (std::size_t k = 0; k < count_; ++k)
        parse(merges[i + k], i + k, parsed_[k]);
      for (std::size_t k = 0; k < count_; ++k)
        for (const part& p : parsed_[k].parts)
          v_.words.prefetch_text(v_.texts, p.hash);
      for (std::size_t k = 0; k < count_; ++k)
        look_up(merges[i + k], i + k, parsed_[k]);
      for (std::size_t k = 0; k < count_; ++k)
        if (const auto& m = parsed_[k].merge; m.result >= 0)
          v_.merges.add(m);
    }
  }

private:
  static constexpr std::size_t batch = 64;

  struct part {
    std::size_t at = 0; // in bytes_
    std::size_t length = 0;
    std::uint64_t hash = 0;
  };
  struct parsed {
    std::array<part, 3> parts; // left, right, both
    merge_table::merge merge;
  };

  void parse(const std::string& text, std::size_t rank, parsed& into) {
    // Tokens of the byte alphabet hold no space.
    const std::size_t space = text.find(' ', 1);
    if (space == std::string::npos || space + 1 == text.size() || text.find(' ', space + 1) != std::string::npos)
      fail(fmt::format("{}[{}] is {}; expected two tokens with a space between", key_merges, rank, utf8::quoted(text)));
    const std::string_view view = text;
    const std::size_t begin = bytes_.size();
    const bool left = append_alphabet_bytes(view.substr(0, space), bytes_);
    const std::size_t middle = bytes_.size();
    const bool right = append_alphabet_bytes(view.substr(space + 1), bytes_);
    if (!left || !right)
      fail(fmt::format("{}[{}] is {}, which is not spelt in the byte alphabet", key_merges, rank, utf8::quoted(text)));
    text_hash both;
    for (std::size_t i = begin; i < middle; ++i)
      both.add(bytes_[i]);
    into.parts[0] = {begin, middle - begin, both.value()};
    text_hash second;
    for (std::size_t i = middle; i < bytes_.size(); ++i) {
      both.add(bytes_[i]);
      second.add(bytes_[i]);
    }
    into.parts[1] = {middle, bytes_.size() - middle, second.value()};
    into.parts[2] = {begin, bytes_.size() - begin, both.value()};
    for (const part& p : into.parts)
      v_.words.prefetch(p.hash);
  }

  void look_up(const std::string& text, std::size_t rank, parsed& p) {
    std::array<token_id, 3> ids{};
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string_view bytes = std::string_view(bytes_).substr(p.parts[i].at, p.parts[i].length);
      ids[i] = v_.words.find(v_.texts, bytes, p.parts[i].hash);
      // A merge may spell a token that the file declares special: text never becomes it.
      if (ids[i] < 0 && !v_.specials.find(v_.texts, bytes))
        fail(fmt::format("{}[{}] is {}, but {} is not in the vocabulary", key_merges, rank, utf8::quoted(text),
                         utf8::quoted(bytes)));
    }
    p.merge = {ids[0], ids[1], ids[2]};
    if (ids[0] < 0 || ids[1] < 0)
      p.merge.result = -1;
    if (p.merge.result >= 0)
      v_.merges.prefetch(ids[0], ids[1]);
  }

  vocabulary& v_;
  std::size_t count_ = 0;
  std::string bytes_;
  std::array<parsed, batch> parsed_{};
};

token_id read_id(const gguf_file& file, std::string_view name, std::size_t tokens) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto id = file.find_integer(key);
  if (!id)
    return -1;
  if (*id >= tokens)
    fail(fmt::format("{} is {}, but the vocabulary has {} tokens", key, *id, tokens));
  return static_cast<token_id>(*id);
}

void read_ids(vocabulary& v, const gguf_file& file) {
  v.bos = read_id(file, "bos", v.texts.size());
  v.eos = read_id(file, "eos", v.texts.size());
  for (const token_id id : {v.eos, read_id(file, "eot", v.texts.size()), read_id(file, "eom", v.texts.size())})
    if (id >= 0)
      v.ends.push_back(id);
  for (const std::string_view name : ending_names)
    if (const auto id = v.specials.find(v.texts, name))
      v.ends.push_back(*id);
  std::ranges::sort(v.ends);
  v.ends.erase(std::unique(v.ends.begin(), v.ends.end()), v.ends.end());
  const auto add_bos = file.find_flag("tokenizer.ggml.add_bos_token");
  v.add_bos = v.bos >= 0 && add_bos.value_or(v.cut == pretokenizer_kind::llama3);
}

} // namespace

std::optional<std::pair<token_id, token_id>> special_tokens::assign(const token_texts& texts,
                                                                    const std::vector<token_kind>& kinds) {
  for (std::size_t id = 0; id < kinds.size(); ++id)
    if ((kinds[id] == token_kind::control || kinds[id] == token_kind::added) && !texts[id].empty()) {
      sorted_.push_back(static_cast<token_id>(id));
      first_[static_cast<unsigned char>(texts[id].front())] = true;
    }
  const auto text_of = [&](token_id id) { return texts[static_cast<std::size_t>(id)]; };
  std::ranges::stable_sort(sorted_, {}, text_of);
  const auto twin = std::ranges::adjacent_find(sorted_, {}, text_of);
  if (twin == sorted_.end())
    return std::nullopt;
  return std::pair{*twin, *(twin + 1)};
}

std::optional<token_id> special_tokens::find(const token_texts& texts, std::string_view text) const {
  const auto text_of = [&](token_id id) { return texts[static_cast<std::size_t>(id)]; };
  const auto at = std::ranges::lower_bound(sorted_, text, {}, text_of);
  if (at == sorted_.end() || text_of(*at) != text)
    return std::nullopt;
  return *at;
}

std::optional<special_tokens::found> special_tokens::match_front(const token_texts& texts,
                                                                 std::string_view text) const {
  std::optional<found> longest;
  auto low = sorted_.begin();
  auto high = sorted_.end();
  // Those that share the first `depth` bytes with the text are neighbours; each further byte narrows them.
  for (std::size_t depth = 0; low != high; ++depth) {
    if (const std::string_view first = texts[static_cast<std::size_t>(*low)]; first.size() == depth) {
      longest = found{0, depth, *low};
      ++low;
    }
    if (depth == text.size())
      break;
    const auto byte = static_cast<unsigned char>(text[depth]);
    const auto byte_of = [&](token_id id) {
      return static_cast<unsigned char>(texts[static_cast<std::size_t>(id)][depth]);
    };
    low = std::partition_point(low, high, [&](token_id id) { return byte_of(id) < byte; });
    high = std::partition_point(low, high, [&](token_id id) { return byte_of(id) == byte; });
  }
  return longest;
}

std::optional<special_tokens::found> special_tokens::search(const token_texts& texts, std::string_view text) const {
  for (std::size_t i = 0; i < text.size(); ++i)
    if (first_[static_cast<unsigned char>(text[i])])
      if (auto match = match_front(texts, text.substr(i))) {
        match->at = i;
        return match;
      }
  return std::nullopt;
}

vocabulary vocabulary::read(const gguf_file& file) {
  const std::string& model = file.require_text("tokenizer.ggml.model");
  if (model != "gpt2")
    throw error(errc::unsupported,
                fmt::format("the tokenizer is {}; tropilla runs byte-level BPE (\"gpt2\") only", utf8::quoted(model)));
  const std::string* pre = file.find_text("tokenizer.ggml.pre");
  const auto cut = find_pretokenizer(pre == nullptr ? "" : *pre);
  if (!cut)
    throw error(errc::unsupported,
                fmt::format("tokenizer.ggml.pre is {}; known are llama-bpe, smollm and gpt-2",
                            pre == nullptr ? "missing: convert the model again" : utf8::quoted(*pre)));
  vocabulary v;
  v.cut = *cut;
  v.whole_words = *cut == pretokenizer_kind::llama3;
  const auto& tokens = require_strings(file, key_tokens);
  v.kinds = read_kinds(file, tokens);
  read_texts(v, tokens);
  const auto& merges = require_strings(file, key_merges);
  if (merges.size() >= merge_table::none)
    fail(fmt::format("{} has {} entries, more than there can be", key_merges, merges.size()));
  merge_reader(v).read(merges);
  read_ids(v, file);
  if (!v.whole_words)
    v.words = token_index{};
  return v;
}

} // namespace tropilla
