/// Prints notes about defects in a model's file that do not keep it from being read.
#pragma once

#include "src/model/gguf.hpp"

#include <span>
#include <string>
#include <vector>

namespace tropilla::app {

/// Prints a line "note: ..." on standard error for each sentence.
void say_notes(std::span<const std::string> sentences);

/// The notes that a runtime over this file would give when it is opened. None for a file that it would refuse.
[[nodiscard]] std::vector<std::string> notes_of(const gguf_file& file);

} // namespace tropilla::app
