/// What the program says beside its output: how a model's file is read where it has something wrong.
#pragma once

#include "src/model/gguf.hpp"

#include <span>
#include <string>
#include <vector>

namespace tropilla::app {

/// A line "note: ..." on standard error for each.
void say_notes(std::span<const std::string> sentences);

/// What a runtime over this file would note when it is opened. None for a file that it would refuse.
[[nodiscard]] std::vector<std::string> notes_of(const gguf_file& file);

} // namespace tropilla::app
