// Decodes, measures and compares short texts.
#include "app/text.hpp"

#include "tropilla/error.hpp"

#include <algorithm>
#include <cctype>
#include <cwchar>
#include <fmt/format.h>
#include <numeric>
#include <vector>

namespace tropilla::app {
namespace {

struct decoded {
  char32_t value = 0;
  std::size_t bytes = 0; ///< 0: invalid
};

/// Table 3-7 of the Unicode Standard: the second byte's range depends on the first.
decoded decode_character(std::string_view s) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char first = at(0);
  if (first < 0x80)
    return {first, 1};
  if (first < 0xC2 || first > 0xF4)
    return {};
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (s.size() < length)
    return {};
  const unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (at(1) < low || at(1) > high)
    return {};
  char32_t value = first & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80)
      return {};
    value = (value << 6) | (at(i) & 0x3FU);
  }
  return {value, length};
}

/// Whether a character is a control: C0, DEL or C1.
bool is_control(char32_t c) noexcept {
  return c < 0x20 || (c >= 0x7F && c < 0xA0);
}

std::size_t character_width(char32_t c) noexcept {
  const int width = ::wcwidth(static_cast<wchar_t>(c));
  return width < 0 ? 1 : static_cast<std::size_t>(width);
}

void append_hex(std::string& out, std::string_view bytes) {
  for (const char c : bytes)
    out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
}

/// Whether the text is UTF-16: by a byte order mark, which is invalid UTF-8, or as Latin text without one, since UTF-8
/// has no byte 0 except in U+0000.
bool is_utf16(std::string_view text) noexcept {
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    return true;
  const std::size_t pairs = std::min<std::size_t>(text.size() / 2, 64);
  std::size_t first = 0, second = 0;
  for (std::size_t i = 0; i < pairs; ++i) {
    first += text[2 * i] == '\0' ? 1 : 0;
    second += text[2 * i + 1] == '\0' ? 1 : 0;
  }
  return pairs > 0 && (first == pairs) != (second == pairs);
}

/// Levenshtein's distance with swaps of neighbours, which are what fingers do.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  std::iota(d[0].begin(), d[0].end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    d[i][0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

} // namespace

std::optional<std::size_t> invalid_utf8_at(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const decoded c = decode_character(text.substr(i));
    if (c.bytes == 0)
      return i;
    i += c.bytes;
  }
  return std::nullopt;
}

std::string without_byte_order_mark(std::string text) {
  constexpr std::string_view mark = "\xEF\xBB\xBF";
  if (text.starts_with(mark))
    text.erase(0, mark.size());
  return text;
}

void require_utf8(std::string_view text, std::string_view what) {
  if (is_utf16(text))
    throw error(errc::invalid_argument,
                fmt::format("{} is UTF-16, not UTF-8; convert it first (iconv -f UTF-16 -t UTF-8)", what));
  if (const auto at = invalid_utf8_at(text))
    throw error(errc::invalid_argument,
                fmt::format("{} is not valid UTF-8: byte 0x{:02x} at offset {}; convert it first (iconv -t UTF-8)",
                            what, static_cast<unsigned char>(text[*at]), *at));
}

std::string escape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const decoded c = decode_character(text.substr(i));
    const std::string_view bytes = text.substr(i, std::max<std::size_t>(c.bytes, 1));
    i += bytes.size();
    if (c.bytes == 0)
      append_hex(out, bytes);
    else if (c.value == U'\n')
      out += "\\n";
    else if (c.value == U'\t')
      out += "\\t";
    else if (c.value == U'\r')
      out += "\\r";
    else if (c.value == U'\\')
      out += "\\\\";
    else if (is_control(c.value))
      append_hex(out, bytes);
    else
      out += bytes;
  }
  return out;
}

std::string without_controls(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const decoded c = decode_character(text.substr(i));
    const std::string_view bytes = text.substr(i, std::max<std::size_t>(c.bytes, 1));
    i += bytes.size();
    if (c.bytes != 0 && (!is_control(c.value) || c.value == U'\n' || c.value == U'\t'))
      out += bytes;
  }
  return out;
}

std::size_t display_width(std::string_view text) noexcept {
  std::size_t width = 0;
  for (std::size_t i = 0; i < text.size();) {
    const decoded c = decode_character(text.substr(i));
    width += c.bytes == 0 ? 1 : character_width(c.value);
    i += std::max<std::size_t>(c.bytes, 1);
  }
  return width;
}

std::string shorten(std::string_view text, std::size_t columns) {
  if (display_width(text) <= columns)
    return std::string(text);
  constexpr std::string_view mark = "...";
  const std::size_t room = columns > mark.size() ? columns - mark.size() : 0;
  std::size_t end = 0;
  for (std::size_t width = 0; end < text.size();) {
    const decoded c = decode_character(text.substr(end));
    width += c.bytes == 0 ? 1 : character_width(c.value);
    if (width > room)
      break;
    end += std::max<std::size_t>(c.bytes, 1);
  }
  return std::string(text.substr(0, end)) + std::string(mark.substr(0, std::min(columns, mark.size())));
}

std::string wrap(std::string_view text, std::size_t columns, std::size_t indent) {
  std::string out;
  while (true) {
    const std::size_t line_end = text.find('\n');
    std::string_view line = text.substr(0, line_end);
    out.append(line.empty() ? 0 : indent, ' ');
    if (line.starts_with(' ')) {
      out += line;
      line = {};
    }
    for (std::size_t column = indent; !line.empty();) {
      const std::string_view word = line.substr(0, line.find(' '));
      line.remove_prefix(std::min(line.size(), word.size() + 1));
      const std::size_t width = display_width(word);
      if (column > indent && column + 1 + width > columns) {
        out.append("\n").append(indent, ' ');
        column = indent;
      } else if (column > indent) {
        out += ' ';
        ++column;
      }
      out += word;
      column += width;
    }
    if (line_end == std::string_view::npos)
      return out;
    out += '\n';
    text.remove_prefix(line_end + 1);
  }
}

std::string closest(std::string_view word, std::span<const std::string> candidates) {
  // A third of the letters may be wrong: "tokenise" finds "tokenize", "foo" finds nothing. So does a
  // beginning ("warn" finds "warning"), and case does not count.
  std::size_t best_distance = std::max<std::size_t>(1, word.size() / 3) + 1;
  std::string best;
  if (word.size() > 64)
    return best;
  constexpr std::size_t shortest_beginning = 3;
  const auto lower = [](std::string_view text) {
    std::string out(text);
    for (char& c : out)
      c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
  };
  const std::string wanted = lower(word);
  for (const std::string& candidate : candidates) {
    const std::string found = lower(candidate);
    const bool begins = wanted.size() >= shortest_beginning && found.starts_with(wanted);
    const std::size_t distance = begins && found != wanted ? 1 : edit_distance(wanted, found);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string count_of(std::size_t count, std::string_view thing) {
  return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s");
}

std::string format_count(std::size_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9)
    return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6)
    return fmt::format("{:.1f} M", value / 1e6);
  if (value >= 1e3)
    return fmt::format("{:.1f} K", value / 1e3);
  return fmt::format("{}", count);
}

} // namespace tropilla::app
