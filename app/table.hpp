/// Renders rows of text as a table: for a terminal, for Markdown, for a spreadsheet.
#pragma once

#include <string>
#include <vector>

namespace tropilla::app {

struct table_column {
  std::string title;
  bool right = false; ///< numbers line up at their right
};

/// Cells are UTF-8 and hold no line ends.
struct table {
  std::vector<table_column> columns;
  std::vector<std::vector<std::string>> rows; ///< each as long as `columns`

  /// Columns two spaces apart, no trailing spaces, one line per row. `heading` is put around the titles' line
  /// ("" or a terminal's codes, ended by `heading_end`).
  [[nodiscard]] std::string aligned(const std::string& heading = {}, const std::string& heading_end = {}) const;
  [[nodiscard]] std::string markdown() const;
  /// RFC 4180 with line feeds.
  [[nodiscard]] std::string csv() const;
};

} // namespace tropilla::app
