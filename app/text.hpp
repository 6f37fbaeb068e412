/// Handles text for people: what a terminal can show, how wide it is, and words that are nearly right.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tropilla::app {

/// The offset of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, no overlong forms); empty when all
/// is.
[[nodiscard]] std::optional<std::size_t> invalid_utf8_at(std::string_view text) noexcept;

/// Throws `error` (invalid_argument) naming `what` ("the prompt"), the offset and the byte, or UTF-16 where it is that:
/// by its byte order mark, or because every other byte is 0.
void require_utf8(std::string_view text, std::string_view what);

/// `text` without the byte order mark of UTF-8 that it may begin with.
[[nodiscard]] std::string without_byte_order_mark(std::string text);

/// One line that any terminal shows safely: control characters, backslashes and invalid bytes as \n, \t, \\ and \x1b.
[[nodiscard]] std::string escape(std::string_view text);

/// Model output for a terminal: the control characters that could steer it are dropped, line ends and tabs stay.
[[nodiscard]] std::string without_controls(std::string_view text);

/// Columns that valid UTF-8 takes in a terminal, by the C library's `wcwidth` for the current locale.
[[nodiscard]] std::size_t display_width(std::string_view text) noexcept;

/// At most `columns` columns of `text`, whole characters, with "..." where something was cut.
[[nodiscard]] std::string shorten(std::string_view text, std::size_t columns);

/// `text` in lines of at most `columns` columns, all indented by `indent` blanks, broken between words. Line ends stay;
/// a line that begins with a blank is left as it is. Without a line end at the end.
[[nodiscard]] std::string wrap(std::string_view text, std::size_t columns, std::size_t indent = 0);

/// The candidate that a mistyped `word` most likely meant (edit distance); empty when none is near.
[[nodiscard]] std::string closest(std::string_view word, std::span<const std::string> candidates);

/// "1 request", "2 requests".
[[nodiscard]] std::string count_of(std::size_t count, std::string_view thing);

/// "134.5 M", "1.24 B": a count of parameters.
[[nodiscard]] std::string format_count(std::size_t count);

} // namespace tropilla::app
