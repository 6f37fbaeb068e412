// Checks UTF-8 by table 3-7 of the Unicode Standard as ranges, and holds unfinished characters of a stream back.
#include "src/model/utf8.hpp"

#include "src/model/tokenizer.hpp"

#include <cstring>
#include <fmt/format.h>

namespace tropilla::utf8 {

character front(std::string_view bytes) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80)
    return {form::whole, 1};
  if (lead < 0xC2 || lead > 0xF4)
    return {form::broken, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0)
    low = 0xA0;
  else if (lead == 0xED)
    high = 0x9F;
  else if (lead == 0xF0)
    low = 0x90;
  else if (lead == 0xF4)
    high = 0x8F;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size())
      return {form::unfinished, i};
    if (at(i) < low || at(i) > high)
      return {form::broken, i};
    low = 0x80;
    high = 0xBF;
  }
  return {form::whole, length};
}

namespace {

// Length of the well-formed beginning.
std::size_t valid_prefix(std::string_view bytes) noexcept {
  std::size_t i = 0;
  while (i < bytes.size()) {
    std::uint64_t word = 0;
    while (i + sizeof word <= bytes.size()) {
      std::memcpy(&word, bytes.data() + i, sizeof word);
      if ((word & 0x8080808080808080u) != 0)
        break;
      i += sizeof word;
    }
    if (i == bytes.size())
      break;
    const character c = front(bytes.substr(i));
    if (c.what != form::whole)
      break;
    i += c.length;
  }
  return i;
}

} // namespace

bool is_valid(std::string_view bytes) noexcept {
  return valid_prefix(bytes) == bytes.size();
}

std::string_view mask_invalid(std::string_view bytes, char substitute, std::string& storage) {
  std::size_t i = valid_prefix(bytes);
  if (i == bytes.size())
    return bytes;
  storage.assign(bytes);
  while (i < bytes.size()) {
    const character c = front(bytes.substr(i));
    if (c.what != form::whole)
      storage.replace(i, c.length, c.length, substitute);
    i += c.length;
    i += valid_prefix(bytes.substr(i));
  }
  return storage;
}

std::string quoted(std::string_view bytes) {
  constexpr std::size_t limit = 40;
  std::string text = "\"";
  for (std::size_t i = 0; i < bytes.size();) {
    if (i >= limit) {
      text += "...";
      break;
    }
    const character c = front(bytes.substr(i));
    const auto byte = static_cast<unsigned char>(bytes[i]);
    if (c.what == form::whole && byte >= 0x20 && byte != 0x7F && byte != '"')
      text += bytes.substr(i, c.length);
    else
      for (std::size_t k = 0; k < c.length; ++k)
        text += fmt::format("\\x{:02X}", static_cast<unsigned char>(bytes[i + k]));
    i += c.length;
  }
  return text + "\"";
}

} // namespace tropilla::utf8

namespace tropilla {

std::string_view utf8_stream::push(std::string_view bytes) {
  pending_ += bytes;
  out_.clear();
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const utf8::character c = utf8::front(rest);
    if (c.what == utf8::form::unfinished)
      break;
    out_ += c.what == utf8::form::whole ? rest.substr(0, c.length) : utf8::replacement;
    rest.remove_prefix(c.length);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out_;
}

std::string_view utf8_stream::finish() {
  // The bytes held back are the beginning of one character, hence one maximal subpart.
  out_ = pending_.empty() ? std::string_view{} : utf8::replacement;
  pending_.clear();
  return out_;
}

} // namespace tropilla
