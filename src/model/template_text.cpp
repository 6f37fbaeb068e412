// Lexes Jinja's blocks and string literals, with a stack of its branches. Source: Jinja's template documentation.
#include "src/model/template_text.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace tropilla {
namespace {

// No text of a template has these.
constexpr char computed = '\x01';
constexpr char statement = '\x02';

constexpr std::size_t longest_token = 64;

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
}
bool is_word(char c) {
  return is_letter(c) || (c >= '0' && c <= '9') || c == '_';
}
bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

struct token {
  enum class kind { word, literal, sign } what;
  std::string text; ///< of a literal: its escapes resolved
};

/// The string literal at the front, taken off with its quotes. One without an end ends with the template.
std::string take_literal(std::string_view& rest) {
  const char quote = rest.front();
  std::string text;
  std::size_t i = 1;
  for (; i < rest.size() && rest[i] != quote; ++i) {
    char c = rest[i];
    if (c == '\\' && i + 1 < rest.size()) {
      c = rest[++i];
      c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
    }
    text += c;
  }
  rest.remove_prefix(std::min(rest.size(), i + 1));
  return text;
}

/// The tokens of a block up to `end`, taken off the front with it.
std::vector<token> take_block(std::string_view& rest, std::string_view end) {
  std::vector<token> tokens;
  while (!rest.empty() && !rest.starts_with(end)) {
    const char c = rest.front();
    if (c == '\'' || c == '"') {
      tokens.push_back({token::kind::literal, take_literal(rest)});
    } else if (is_word(c)) {
      const auto stop = std::ranges::find_if_not(rest, is_word);
      tokens.push_back({token::kind::word, std::string(rest.begin(), stop)});
      rest.remove_prefix(tokens.back().text.size());
    } else {
      // "-" beside a brace trims white space, which no search here minds.
      if (!is_space(c) && !(c == '-' && (tokens.empty() || rest.substr(1).starts_with(end))))
        tokens.push_back({token::kind::sign, std::string(1, c)});
      rest.remove_prefix(1);
    }
  }
  rest.remove_prefix(std::min(rest.size(), end.size()));
  return tokens;
}

/// Whether a condition asks for what a conversation of messages does not have.
bool is_about_others(const std::vector<token>& tokens) {
  constexpr std::array<std::string_view, 5> parts{"tool", "function", "document", "ipython", "image"};
  if (tokens.size() > 1 && tokens[1].text == "not")
    return false;
  return std::ranges::any_of(tokens, [&](const token& t) {
    return std::ranges::any_of(parts, [&](std::string_view part) { return t.text.find(part) != std::string::npos; });
  });
}

} // namespace

class template_reader {
public:
  explicit template_reader(template_text& into) : into_(into) {}

  void read(std::string_view rest) {
    while (!rest.empty()) {
      const std::size_t brace = std::min(rest.find('{'), rest.size());
      const std::string_view opening = rest.substr(brace, 2);
      if (opening == "{{" || opening == "{%" || opening == "{#") {
        text(rest.substr(0, brace));
        rest.remove_prefix(brace + 2);
        block(opening, rest);
      } else {
        text(rest.substr(0, brace + 1));
        rest.remove_prefix(std::min(rest.size(), brace + 1));
      }
    }
  }

private:
  void text(std::string_view outside) {
    // Between blocks it is how the template is laid out.
    if (!skips() && !std::ranges::all_of(outside, is_space))
      into_.written_ += outside;
  }

  void block(std::string_view opening, std::string_view& rest) {
    if (opening == "{#") {
      const std::size_t end = rest.find("#}");
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 2);
      return;
    }
    const std::vector<token> tokens = take_block(rest, opening == "{{" ? "}}" : "%}");
    if (opening == "{{") {
      if (!skips())
        expression(tokens);
    } else if (!tokens.empty()) {
      execute(tokens);
    }
  }

  void execute(const std::vector<token>& tokens) {
    into_.written_ += statement;
    const std::string& word = tokens[0].text;
    if (word == "if" || word == "for") {
      branches_.push_back(skips() || is_about_others(tokens));
    } else if ((word == "elif" || word == "else") && !branches_.empty()) {
      branches_.pop_back();
      branches_.push_back(skips() || (word == "elif" && is_about_others(tokens)));
    } else if ((word == "endif" || word == "endfor") && !branches_.empty()) {
      branches_.pop_back();
    } else if (word == "set" && tokens.size() > 3 && !skips()) {
      if (tokens.size() == 4 && tokens[2].text == "=" && tokens[3].what == token::kind::literal)
        into_.assignments_.push_back({tokens[1].text, tokens[3].text});
      else
        expression(std::span(tokens).subspan(3));
      into_.written_ += statement;
    }
  }

  /// Adds what an expression writes: its literals, except those that are compared, looked up or given to a function.
  void expression(std::span<const token> tokens) {
    std::vector<bool> calls; // open brackets: whether they are of a call or a look-up
    std::size_t inside = 0;  // of those that are
    for (std::size_t at = 0; at < tokens.size(); ++at) {
      const token& t = tokens[at];
      const std::string_view before = at > 0 ? std::string_view{tokens[at - 1].text} : "";
      const std::string_view after = at + 1 < tokens.size() ? std::string_view{tokens[at + 1].text} : "";
      if (t.what == token::kind::literal) {
        if (inside == 0 && before != "=" && before != "in" && after != "=" && after != "!" && after != "in")
          into_.written_ += t.text;
      } else if (t.text == "(" || t.text == "[") {
        calls.push_back(t.text == "[" || (!before.empty() && is_word(before.back())));
        inside += calls.back() ? 1 : 0;
      } else if (t.text == ")" || t.text == "]") {
        if (!calls.empty()) {
          inside -= calls.back() ? 1 : 0;
          calls.pop_back();
        }
      } else if (inside == 0 && t.text != "+" && t.text != "~") {
        into_.written_ += computed;
      }
    }
  }

  [[nodiscard]] bool skips() const { return !branches_.empty() && branches_.back(); }

  template_text& into_;
  std::vector<bool> branches_; ///< open ones: whether they are left out
};

template_text::template_text(std::string_view jinja) {
  template_reader(*this).read(jinja);
}

std::optional<std::string> template_text::between(std::string_view begin, std::string_view end) const {
  std::string_view rest = written_;
  for (std::size_t at = rest.find(begin); at != std::string_view::npos; at = rest.find(begin)) {
    rest.remove_prefix(at + begin.size());
    const std::string_view text = rest.substr(0, rest.find_first_of(std::string{computed, statement}));
    if (const std::size_t length = text.find(end); length != std::string_view::npos)
      return std::string(text.substr(0, length));
    rest.remove_prefix(text.size());
  }
  return std::nullopt;
}

std::optional<std::string> template_text::assigned_to(std::string_view part) const {
  for (const assignment& a : assignments_)
    if (a.name.find(part) != std::string::npos && !a.value.empty())
      return a.value;
  return std::nullopt;
}

std::optional<std::string> template_text::other_than(const std::vector<std::string_view>& known) const {
  std::string_view rest = written_;
  std::string text;
  const auto has_letter = [&] { return std::ranges::any_of(text, is_letter); };
  while (!rest.empty()) {
    const auto match =
        std::ranges::find_if(known, [&](std::string_view k) { return !k.empty() && rest.starts_with(k); });
    std::size_t length = match == known.end() ? 0 : match->size();
    if (rest.starts_with("<|"))
      if (const std::size_t end = rest.substr(0, longest_token).find("|>"); end != std::string_view::npos)
        length = end + 2;
    if (length == 0 && rest.front() != computed && rest.front() != statement) {
      text += rest.front();
      rest.remove_prefix(1);
      continue;
    }
    if (has_letter())
      return text;
    text.clear();
    rest.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return has_letter() ? std::optional(text) : std::nullopt;
}

} // namespace tropilla
