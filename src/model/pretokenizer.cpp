// Compiles the published expressions, rewritten so that no input makes them backtrack more than once over a character.
#include "src/model/pretokenizer.hpp"

#include "src/model/utf8.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>
#include <limits>
#include <mutex>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8 // NOLINT(cppcoreguidelines-macro-usage): for the header
#include <pcre2.h>

namespace tropilla {
namespace {

// Unicode's White_Space property, spelt out: PCRE2's own \s adds U+180E, which tokenizers' engines do not.
#define TROPILLA_BLANK R"(\t\x0B\x0C \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"
#define TROPILLA_SPACE R"(\r\n)" TROPILLA_BLANK

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
constexpr std::string_view gpt2_expression =
    R"('(?:[stmd]|re|ve|ll)| ?\p{L}++| ?\p{N}++| ?[^\p{L}\p{N})" TROPILLA_SPACE "]++"
    "|[" TROPILLA_SPACE "]+(?![^" TROPILLA_SPACE "])|[" TROPILLA_SPACE "]++";

// Each \p{N} first, then GPT-2's expression on the stretches between: white space before a digit ends its stretch.
constexpr std::string_view smollm_expression =
    R"(\p{N}|'(?:[stmd]|re|ve|ll)| ?\p{L}++| ?[^\p{L}\p{N})" TROPILLA_SPACE "]++"
    "|[" TROPILLA_SPACE R"(]+(?![^\p{N})" TROPILLA_SPACE "])|[" TROPILLA_SPACE "]++";

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// The fifth, white space up to its last line break, becomes a possessive group of (blanks, breaks).
constexpr std::string_view llama3_expression =
    R"((?i:'(?:[stmd]|re|ve|ll))|[^\r\n\p{L}\p{N}]?\p{L}++|\p{N}{1,3}+)"
    R"(| ?[^\p{L}\p{N})" TROPILLA_SPACE R"(]++[\r\n]*+|(?:[)" TROPILLA_BLANK R"(]*+[\r\n]++)++)"
    "|[" TROPILLA_SPACE "]+(?![^" TROPILLA_SPACE "])|[" TROPILLA_SPACE "]++";

// Four expressions, each of which cuts what the one before left; what it does not match stays a word, too:
//   [\p{P}\$\+<=>\^~\|]+    GPT-2's    \p{N}+    [0-9][0-9][0-9]
// Punctuation ends a stretch, so white space before it is one word, and no contraction is left for GPT-2's to find.
// Between digits, those that no three ASCII digits begin at are one word.
#define TROPILLA_PUNCTUATION R"(\p{P}$+<=>^~|)"
constexpr std::string_view fallback_expression =
    "[" TROPILLA_PUNCTUATION R"(]++| ?\p{L}++|[0-9]{3}|(?:(?![0-9]{3})\p{N})++)"
    R"(| ?[^\p{L}\p{N})" TROPILLA_PUNCTUATION TROPILLA_SPACE "]++"
    "|[" TROPILLA_SPACE "]+(?![^" TROPILLA_PUNCTUATION TROPILLA_SPACE "])|[" TROPILLA_SPACE "]++";

#undef TROPILLA_PUNCTUATION
#undef TROPILLA_SPACE
#undef TROPILLA_BLANK

std::string_view expression_of(pretokenizer_kind kind) {
  switch (kind) {
  case pretokenizer_kind::smollm:
    return smollm_expression;
  case pretokenizer_kind::llama3:
    return llama3_expression;
  case pretokenizer_kind::fallback:
    return fallback_expression;
  case pretokenizer_kind::gpt2:
    break;
  }
  return gpt2_expression;
}

struct free_code {
  void operator()(pcre2_code* code) const noexcept { pcre2_code_free(code); }
};
using code_pointer = std::unique_ptr<pcre2_code, free_code>;

code_pointer compile(std::string_view expression) {
  int status = 0;
  PCRE2_SIZE offset = 0;
  constexpr std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK;
  code_pointer code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(), options, &status,
                                  &offset, nullptr));
  if (!code)
    throw error(errc::internal, fmt::format("PCRE2 refuses the pre-tokenizer's expression at {} with code {}: is it "
                                            "built with Unicode?",
                                            offset, status));
  return code;
}

// Compiling machine code pays once a text has about this many bytes.
constexpr std::size_t jit_threshold = 4096;

} // namespace

std::optional<pretokenizer_choice> find_pretokenizer(std::string_view name) noexcept {
  constexpr pretokenizer_choice llama3{pretokenizer_kind::llama3, true, true};
  constexpr std::array<std::pair<std::string_view, pretokenizer_choice>, 8> names{{
      {"llama-bpe", llama3},
      {"llama3", llama3},
      {"llama-v3", llama3},
      {"falcon3", llama3},
      {"smaug-bpe", {pretokenizer_kind::llama3}},
      {"smollm", {pretokenizer_kind::smollm}},
      {"gpt-2", {pretokenizer_kind::gpt2}},
      {"default", {pretokenizer_kind::fallback}},
  }};
  for (const auto& [known, choice] : names)
    if (known == name)
      return choice;
  return std::nullopt;
}

struct pretokenizer::impl {
  std::string_view expression;
  code_pointer plain;      // interpreted
  std::once_flag jit_once; // PCRE2 must not compile machine code into what another thread matches with
  code_pointer jit;        // the same with machine code
};

pretokenizer::pretokenizer(pretokenizer_kind kind) : impl_(std::make_unique<impl>()) {
  impl_->expression = expression_of(kind);
  impl_->plain = compile(impl_->expression);
}

pretokenizer::~pretokenizer() = default;

struct pretokenizer::words::match {
  const pcre2_code* code = nullptr;
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{nullptr, pcre2_match_context_free};
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{nullptr, pcre2_match_data_free};
};

pretokenizer::words::words(const pretokenizer& owner, std::string_view text)
    : text_(text), subject_(utf8::mask_invalid(text, '\x01', masked_)), match_(std::make_unique<match>()) {
  impl& shared = *owner.impl_;
  match_->code = shared.plain.get();
  if (text.size() >= jit_threshold) {
    std::call_once(shared.jit_once, [&] {
      shared.jit = compile(shared.expression);
      // Where the system forbids machine code this fails, and the same code is interpreted.
      pcre2_jit_compile(shared.jit.get(), PCRE2_JIT_COMPLETE);
    });
    match_->code = shared.jit.get();
  }
  match_->context.reset(pcre2_match_context_create(nullptr));
  match_->data.reset(pcre2_match_data_create(1, nullptr));
  if (!match_->context || !match_->data)
    throw std::bad_alloc();
  // A word costs at most a few steps for each of its characters.
  const std::size_t limit = std::min<std::size_t>(4 * text.size() + 1000, std::numeric_limits<std::uint32_t>::max());
  pcre2_set_match_limit(match_->context.get(), static_cast<std::uint32_t>(limit));
  pcre2_set_depth_limit(match_->context.get(), 1000);
  pcre2_set_heap_limit(match_->context.get(), 1024); // KiB
}

pretokenizer::words::~words() = default;

std::optional<std::string_view> pretokenizer::words::next() {
  if (at_ == text_.size())
    return std::nullopt;
  const int status = pcre2_match(match_->code, reinterpret_cast<PCRE2_SPTR>(subject_.data()), subject_.size(), at_,
                                 PCRE2_NO_UTF_CHECK, match_->data.get(), match_->context.get());
  std::size_t end = at_;
  if (status > 0)
    end = pcre2_get_ovector_pointer(match_->data.get())[1];
  else if (status != PCRE2_ERROR_NOMATCH)
    throw error(errc::internal,
                fmt::format("PCRE2 stopped cutting the text at byte {} of {} with code {}", at_, text_.size(), status));
  // The alternatives cover every character; should one not, it is a word of its own.
  if (end <= at_)
    end = at_ + utf8::front(subject_.substr(at_)).length;
  const std::size_t begin = std::exchange(at_, end);
  return text_.substr(begin, end - begin);
}

} // namespace tropilla
