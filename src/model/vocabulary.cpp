// Checks every id, type and merge against the tokens before anything relies on it. A defect on which a text's ids do
// not depend, or to which llama.cpp gives a meaning, is a notice; any other is refused.
#include "src/model/vocabulary.hpp"

#include "memory/bytes.hpp"
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

token_kind kind_of(std::int64_t type, std::string_view text) {
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
  default: // undefined, normal, byte, and what is no type
    return token_kind::text;
  }
}

void read_kinds(vocabulary& v, const gguf_file& file, const std::vector<std::string>& tokens) {
  const gguf_array* array = file.find_array(key_types);
  v.kinds.reserve(tokens.size());
  if (array == nullptr) {
    for (const std::string& token : tokens)
      v.kinds.push_back(kind_of(1, token));
    v.notices.push_back(fmt::format(
        "the vocabulary lacks {}: special tokens are those with well-known names, as <|eot_id|>", key_types));
    return;
  }
  if (array->size() < tokens.size())
    fail(fmt::format("{} has {} entries for {} tokens", key_types, array->size(), tokens.size()));
  if (array->size() > tokens.size())
    v.notices.push_back(
        fmt::format("{} has {} entries for {} tokens: the rest is ignored", key_types, array->size(), tokens.size()));
  std::size_t unknown = 0;
  std::string first_unknown;
  const auto convert = [&](const auto& types) {
    for (std::size_t id = 0; id < tokens.size(); ++id) {
      if ((std::cmp_less(types[id], 0) || std::cmp_greater(types[id], 6)) && unknown++ == 0)
        first_unknown = fmt::format("{}[{}] is {}", key_types, id, types[id]);
      // A number that does not fit a signed one is no type either.
      v.kinds.push_back(
          kind_of(std::in_range<std::int64_t>(types[id]) ? static_cast<std::int64_t>(types[id]) : -1, tokens[id]));
    }
  };
  if (const auto* as_signed = std::get_if<std::vector<std::int64_t>>(&array->values))
    convert(*as_signed);
  else if (const auto* as_unsigned = std::get_if<std::vector<std::uint64_t>>(&array->values))
    convert(*as_unsigned);
  else
    fail(fmt::format("{} must be an array of whole numbers", key_types));
  if (unknown > 0)
    v.notices.push_back(fmt::format("{}, and types are 0 to 6: {} count{} as text", first_unknown,
                                    unknown == 1 ? "the token" : fmt::format("it and {} more", unknown - 1),
                                    unknown == 1 ? "s" : ""));
}

void read_texts(vocabulary& v, const std::vector<std::string>& tokens) {
  std::size_t bytes = 0;
  for (const std::string& token : tokens)
    bytes += token.size();
  if (!std::in_range<token_id>(tokens.size()) || !std::in_range<std::uint32_t>(bytes))
    fail(fmt::format("a vocabulary of {} tokens in {} is too large: ids have 31 bits", tokens.size(),
                     format_bytes(bytes)));
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
// merge, and one at a time they cost three times as much. Merges that name no tokens are ignored at the end of the
// list: the vocabulary was cut, and the merges were not. Before others that can be used they are a list for other
// tokens.
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
        add(parsed_[k]);
    }
    if (unusable_ == merges.size())
      fail(first_problem_);
    if (unusable_ > 0)
      v_.notices.push_back(fmt::format("{}: {}", first_problem_,
                                       unusable_ == 1
                                           ? std::string("the last merge is ignored")
                                           : fmt::format("it and the other {} at the end are ignored", unusable_ - 1)));
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
    std::string problem; // why it can't be used; empty where it can
  };

  void parse(const std::string& text, std::size_t rank, parsed& into) {
    into.parts = {};
    into.problem.clear();
    // Tokens of the byte alphabet hold no space.
    const std::size_t space = text.find(' ', 1);
    if (space == std::string::npos || space + 1 == text.size() || text.find(' ', space + 1) != std::string::npos) {
      into.problem =
          fmt::format("{}[{}] is {}; expected two tokens with a space between", key_merges, rank, utf8::quoted(text));
      return;
    }
    const std::string_view view = text;
    const std::size_t begin = bytes_.size();
    const bool left = append_alphabet_bytes(view.substr(0, space), bytes_);
    const std::size_t middle = bytes_.size();
    const bool right = append_alphabet_bytes(view.substr(space + 1), bytes_);
    if (!left || !right) {
      into.problem =
          fmt::format("{}[{}] is {}, which is not spelt in the byte alphabet", key_merges, rank, utf8::quoted(text));
      return;
    }
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
    p.merge = {-1, -1, -1};
    std::array<token_id, 3> ids{};
    for (std::size_t i = 0; i < 3 && p.problem.empty(); ++i) {
      const std::string_view bytes = std::string_view{bytes_}.substr(p.parts[i].at, p.parts[i].length);
      ids[i] = v_.words.find(v_.texts, bytes, p.parts[i].hash);
      // A merge may spell a token that the file declares special: text never becomes it.
      if (ids[i] < 0 && !v_.specials.find(v_.texts, bytes))
        p.problem = fmt::format("{}[{}] is {}, but {} is not in the vocabulary", key_merges, rank, utf8::quoted(text),
                                utf8::quoted(bytes));
    }
    if (!p.problem.empty())
      return;
    p.merge = {ids[0], ids[1], ids[2]};
    if (ids[0] < 0 || ids[1] < 0)
      p.merge.result = -1;
    if (p.merge.result >= 0)
      v_.merges.prefetch(ids[0], ids[1]);
  }

  void add(const parsed& p) {
    if (!p.problem.empty()) {
      if (unusable_++ == 0)
        first_problem_ = p.problem;
      return;
    }
    if (unusable_ > 0)
      fail(first_problem_);
    if (p.merge.result >= 0)
      v_.merges.add(p.merge);
  }

  vocabulary& v_;
  std::size_t unusable_ = 0;
  std::string first_problem_;
  std::size_t count_ = 0;
  std::string bytes_;
  std::array<parsed, batch> parsed_{};
};

token_id read_id(vocabulary& v, const gguf_file& file, std::string_view name) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto found = file.metadata.find(key);
  const auto ignored = [&](auto id) {
    v.notices.push_back(
        fmt::format("{} is {}, but the vocabulary has {} tokens: it is ignored", key, id, v.texts.size()));
    return -1;
  };
  if (found != file.metadata.end())
    if (const auto* number = std::get_if<std::int64_t>(&found->second); number != nullptr && *number < 0)
      return ignored(*number);
  const auto id = file.find_integer(key);
  if (!id)
    return -1;
  return *id < v.texts.size() ? static_cast<token_id>(*id) : ignored(*id);
}

void read_ids(vocabulary& v, const gguf_file& file, bool wants_bos) {
  v.bos = read_id(v, file, "bos");
  v.eos = read_id(v, file, "eos");
  for (const token_id id : {v.eos, read_id(v, file, "eot"), read_id(v, file, "eom")})
    if (id >= 0)
      v.ends.push_back(id);
  for (const std::string_view name : ending_names)
    if (const auto id = v.specials.find(v.texts, name))
      v.ends.push_back(*id);
  std::ranges::sort(v.ends);
  v.ends.erase(std::unique(v.ends.begin(), v.ends.end()), v.ends.end());
  const auto add_bos = file.find_flag("tokenizer.ggml.add_bos_token");
  v.add_bos = v.bos >= 0 && add_bos.value_or(wants_bos);
}

/// Finds out how text is cut. If the file names no known pre-tokenizer, text is cut as llama.cpp does.
pretokenizer_choice read_pretokenizer(vocabulary& v, const gguf_file& file) {
  constexpr std::string_view key = "tokenizer.ggml.pre";
  const std::string* pre = file.find_text(key);
  const std::string name = pre == nullptr || pre->empty() ? "default" : *pre;
  const auto choice = find_pretokenizer(name);
  if (!choice)
    throw error(errc::unsupported, fmt::format("{} is {}; known are llama-bpe, smaug-bpe, smollm, gpt-2 and default",
                                               key, utf8::quoted(name)));
  if (name == "default")
    v.notices.push_back(fmt::format(
        "{} is {}: text is cut as llama.cpp cuts it then, which may not be as the model was trained; if its "
        "replies are poor, convert it again",
        key, pre == nullptr || pre->empty() ? "missing" : "\"default\""));
  if (name == "smaug-bpe")
    v.notices.push_back(fmt::format("{} is \"smaug-bpe\", which early converters wrote for kin of Llama 3: text is cut "
                                    "as Llama 3's, and merged without its rule for whole words, as llama.cpp does",
                                    key));
  return *choice;
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
  // Tokens that share the first `depth` bytes with the text are neighbours; each further byte narrows them.
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
  vocabulary v;
  const pretokenizer_choice pre = read_pretokenizer(v, file);
  v.cut = pre.kind;
  v.whole_words = pre.whole_words;
  const auto& tokens = require_strings(file, key_tokens);
  read_kinds(v, file, tokens);
  read_texts(v, tokens);
  const auto& merges = require_strings(file, key_merges);
  if (merges.size() >= merge_table::none)
    fail(fmt::format("{} has {} entries, more than there can be", key_merges, merges.size()));
  merge_reader(v).read(merges);
  read_ids(v, file, pre.add_bos);
  if (!v.whole_words)
    v.words = token_index{};
  return v;
}

} // namespace tropilla
