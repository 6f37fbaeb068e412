// Parses lists of ids. A JSON array of numbers is a list with brackets, so one reader does for both.
#include "app/ids.hpp"

#include "app/text.hpp"

#include <charconv>
#include <fmt/format.h>
#include <string>

namespace tropilla::app {

std::vector<token_id> parse_ids(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto trim = [&](std::string_view s) {
    const std::size_t begin = s.find_first_not_of(space);
    return begin == std::string_view::npos ? std::string_view{}
                                           : s.substr(begin, s.find_last_not_of(space) - begin + 1);
  };
  text = trim(text);
  if (text.starts_with('[')) {
    if (!text.ends_with(']'))
      throw error(errc::invalid_argument, "the array of ids does not end with \"]\"");
    text = text.substr(1, text.size() - 2);
  }
  std::vector<token_id> ids;
  while (!text.empty()) {
    const std::size_t begin = text.find_first_not_of(" \t\r\n,");
    if (begin == std::string_view::npos)
      break;
    text.remove_prefix(begin);
    const std::string_view word = text.substr(0, text.find_first_of(" \t\r\n,"));
    token_id id = -1;
    const auto parsed = std::from_chars(word.data(), word.data() + word.size(), id);
    if (parsed.ec != std::errc{} || parsed.ptr != word.data() + word.size() || id < 0)
      throw error(errc::invalid_argument,
                  fmt::format("\"{}\" is no token id: they are whole numbers from 0 up", escape(shorten(word, 40))));
    ids.push_back(id);
    text.remove_prefix(word.size());
  }
  return ids;
}

} // namespace tropilla::app
