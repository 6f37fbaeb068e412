// Implements the three renderings of a table.
#include "app/table.hpp"

#include "app/text.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <string_view>

namespace tropilla::app {
namespace {

std::vector<std::size_t> widths_of(const table& t, std::size_t least) {
  std::vector<std::size_t> widths;
  for (const table_column& column : t.columns)
    widths.push_back(std::max(least, display_width(column.title)));
  for (const auto& row : t.rows)
    for (std::size_t i = 0; i < widths.size(); ++i)
      widths[i] = std::max(widths[i], display_width(row[i]));
  return widths;
}

std::string padded(std::string_view cell, std::size_t width, bool right) {
  const std::size_t gap = width - std::min(width, display_width(cell));
  return right ? fmt::format("{:{}}{}", "", gap, cell) : fmt::format("{}{:{}}", cell, "", gap);
}

std::string aligned_line(const table& t, const std::vector<std::size_t>& widths,
                         const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i)
    line += fmt::format("{}{}", i ? "  " : "", padded(cells[i], widths[i], t.columns[i].right));
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

std::vector<std::string> titles_of(const table& t) {
  std::vector<std::string> titles;
  for (const table_column& column : t.columns)
    titles.push_back(column.title);
  return titles;
}

std::string with_escaped_bars(std::string_view cell) {
  std::string out;
  for (const char c : cell) {
    if (c == '|')
      out += '\\';
    out += c;
  }
  return out;
}

std::string markdown_line(const table& t, const std::vector<std::size_t>& widths,
                          const std::vector<std::string>& cells) {
  std::string line = "|";
  for (std::size_t i = 0; i < cells.size(); ++i)
    line += fmt::format(" {} |", padded(cells[i], widths[i], t.columns[i].right));
  line += '\n';
  return line;
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i)
      line += ',';
    if (cells[i].find_first_of(",\"\r\n") == std::string::npos) {
      line += cells[i];
      continue;
    }
    line += '"';
    for (const char c : cells[i])
      line.append(c == '"' ? 2 : 1, c);
    line += '"';
  }
  line += '\n';
  return line;
}

} // namespace

std::string table::aligned(const std::string& heading, const std::string& heading_end) const {
  const auto widths = widths_of(*this, 0);
  std::string out = fmt::format("{}{}{}\n", heading, aligned_line(*this, widths, titles_of(*this)), heading_end);
  for (const auto& row : rows)
    out += fmt::format("{}\n", aligned_line(*this, widths, row));
  return out;
}

std::string table::markdown() const {
  table safe = *this;
  for (auto& row : safe.rows)
    for (std::string& cell : row)
      cell = with_escaped_bars(cell);
  const auto widths = widths_of(safe, 3);
  std::string out = markdown_line(safe, widths, titles_of(safe));
  out += '|';
  for (std::size_t i = 0; i < columns.size(); ++i)
    out += fmt::format(" {:-<{}}{} |", "", widths[i] - 1, columns[i].right ? ':' : '-');
  out += '\n';
  for (const auto& row : safe.rows)
    out += markdown_line(safe, widths, row);
  return out;
}

std::string table::csv() const {
  std::string out = csv_line(titles_of(*this));
  for (const auto& row : rows)
    out += csv_line(row);
  return out;
}

} // namespace tropilla::app
