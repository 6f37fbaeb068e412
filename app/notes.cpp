// Collects notices from the code that reads a model's file.
#include "app/notes.hpp"

#include "app/terminal.hpp"
#include "app/text.hpp"
#include "src/model/llama_config.hpp"
#include "src/model/tokenizer.hpp"

#include <fmt/format.h>

namespace tropilla::app {

void say_notes(std::span<const std::string> sentences) {
  for (const std::string& sentence : sentences)
    say(fmt::format("note: {}", without_controls(sentence)));
}

std::vector<std::string> notes_of(const gguf_file& file) try {
  std::vector<std::string> notes = llama_config::read(file).notices;
  const tokenizer vocabulary(file);
  notes.insert(notes.end(), vocabulary.notices().begin(), vocabulary.notices().end());
  return notes;
} catch (const error&) {
  return {}; // what is in the file is shown all the same
}

} // namespace tropilla::app
