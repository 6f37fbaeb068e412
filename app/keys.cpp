// Decodes bytes one after another as they come: marks and characters may be cut anywhere.
#include "app/keys.hpp"

#include "app/text.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr char escape_key = '\x1b', enter = '\r', control_d = '\x04', control_h = '\x08', control_u = '\x15',
               control_w = '\x17', backspace = '\x7f';

/// Whether `sequence` (from its escape on) has its last byte: ECMA-48, 5.4, and xterm's function keys (SS3).
bool is_complete(std::string_view sequence) {
  if (sequence.size() < 2)
    return false;
  if (sequence[1] == '[')
    return sequence.size() > 2 && sequence.back() >= '@' && sequence.back() <= '~';
  return sequence[1] != 'O' || sequence.size() > 2; // without either it is Alt and a key
}

/// `text` with U+FFFD in place of each byte that is not valid UTF-8.
std::string valid_utf8(std::string_view text) {
  std::string out;
  while (const auto at = invalid_utf8_at(text)) {
    out.append(text.substr(0, *at)).append("\xef\xbf\xbd");
    text.remove_prefix(*at + 1);
  }
  return out.append(text);
}

} // namespace

bool pasted_text::take(char byte) {
  bytes_ += byte;
  if (!bytes_.ends_with(end_mark))
    return false;
  bytes_.resize(bytes_.size() - end_mark.size());
  return true;
}

std::string pasted_text::text() const {
  std::string lines;
  lines.reserve(bytes_.size());
  for (std::size_t i = 0; i < bytes_.size(); ++i)
    if (bytes_[i] != '\r')
      lines += bytes_[i];
    else if (i + 1 == bytes_.size() || bytes_[i + 1] != '\n')
      lines += '\n';
  return without_controls(valid_utf8(lines));
}

std::string name_of_long_paste(std::string_view text, std::size_t columns, std::size_t rows) {
  const auto ends = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  if (ends + text.size() / columns <= rows / 2)
    return "";
  return ends > 0 ? fmt::format("[pasted {} lines]", ends + (text.ends_with('\n') ? 0 : 1))
                  : fmt::format("[pasted {} bytes]", text.size());
}

unseen_line::event unseen_line::take(char byte) {
  if (paste_) {
    if (paste_->take(byte))
      text_ += std::exchange(paste_, std::nullopt)->text();
    return event::none;
  }
  if (escape_.empty())
    return type(byte);
  escape_ += byte;
  if (is_complete(escape_) && std::exchange(escape_, {}) == pasted_text::begin_mark)
    paste_.emplace();
  return event::none;
}

unseen_line::event unseen_line::type(char byte) {
  switch (byte) {
  case '\n':
  case enter:
    return event::line;
  case control_d:
    return text_.empty() ? event::closed : event::none;
  case escape_key:
    escape_ = byte;
    break;
  case backspace:
  case control_h:
    take_back_character();
    break;
  case control_u:
    text_.clear();
    break;
  case control_w:
    take_back_word();
    break;
  default:
    if (static_cast<unsigned char>(byte) >= ' ')
      text_ += byte;
  }
  return event::none;
}

void unseen_line::take_back_character() {
  while (!text_.empty() && (static_cast<unsigned char>(text_.back()) & 0xC0) == 0x80)
    text_.pop_back();
  if (!text_.empty())
    text_.pop_back();
}

void unseen_line::take_back_word() {
  const std::size_t end = text_.find_last_not_of(" \t\n");
  const std::size_t gap = end == std::string::npos ? end : text_.find_last_of(" \t\n", end);
  text_.resize(gap == std::string::npos ? 0 : gap + 1);
}

std::string unseen_line::take_line() {
  return std::exchange(text_, {});
}

std::string unseen_line::take_keys() {
  // The beginning of a character that has not come yet stays outside of the marks, before its other bytes.
  const std::size_t whole = invalid_utf8_at(text_).value_or(text_.size());
  const std::size_t cut = text_.size() - whole < 4 ? whole : text_.size();
  std::string keys;
  if (cut > 0)
    keys = fmt::format("{}{}{}", pasted_text::begin_mark, text_.substr(0, cut), pasted_text::end_mark);
  keys += std::exchange(text_, {}).substr(cut);
  keys += std::exchange(escape_, {});
  if (paste_)
    keys += std::exchange(paste_, std::nullopt)->so_far();
  return keys;
}

} // namespace tropilla::app
