// `tropilla inspect`: shows what is in a GGUF file, without its weights.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/model_summary.hpp"
#include "app/notes.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"
#include "src/model/gguf.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct inspect_options {
  std::string model;
  std::vector<std::string> files;
  bool json = false;
  bool full = false;

  void bind(option_binder& b) {
    b.text({"-m,--model", "FILE", "the same as FILE", model_otherwise}, model);
    b.flag({"--json", "", "everything, arrays in full"}, json);
    b.flag({"--full", "", "long values in full in the table, too"}, full);
    b.positionals("file", files);
  }
};

/// The elements of an array as JSON, or the first `max_count` of them.
json elements(const gguf_array& array, std::size_t max_count) {
  json out = json::array();
  std::visit(
      [&](const auto& values) {
        for (std::size_t i = 0; i < std::min(values.size(), max_count); ++i) {
          if constexpr (std::is_same_v<std::decay_t<decltype(values)>, std::vector<bool>>)
            out.push_back(static_cast<bool>(values[i]));
          else
            out.push_back(values[i]);
        }
      },
      array.values);
  return out;
}

json to_json(const gguf_value& value) {
  return std::visit(
      [](const auto& v) -> json {
        if constexpr (std::is_same_v<std::decay_t<decltype(v)>, gguf_array>)
          return elements(v, v.size());
        else
          return v;
      },
      value);
}

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string type_name(const gguf_value& value) {
  constexpr std::string_view names[] = {"unsigned", "integer", "number", "flag", "text", "array"};
  return std::string(names[value.index()]);
}

/// A value on one line. Arrays show how long they are and how they begin.
std::string value_text(const gguf_value& value, std::size_t columns) {
  if (const auto* text = std::get_if<std::string>(&value))
    return shorten(escape(std::string_view{*text}.substr(0, columns * 4)), columns);
  if (const auto* array = std::get_if<gguf_array>(&value)) {
    const std::size_t shown = std::min<std::size_t>(array->size(), columns);
    std::string list = dump(elements(*array, shown));
    const std::string count = fmt::format("{} x ", array->size());
    const std::size_t room = columns > count.size() ? columns - count.size() : 0;
    return count + shorten(escape(list), room);
  }
  return dump(to_json(value));
}

json as_json(const gguf_file& file, const model_summary& s) {
  json out = {{"version", file.version},
              {"architecture", s.architecture},
              {"name", s.name},
              {"type", s.type},
              {"parameters", s.parameters},
              {"tensor_bytes", s.tensor_bytes},
              {"file_bytes", s.file_bytes}};
  out["files"] = json::array();
  for (const auto& path : file.files)
    out["files"].push_back(path.string());
  out["metadata"] = json::object();
  for (const auto& [key, value] : file.metadata)
    out["metadata"][key] = to_json(value);
  out["tensors"] = json::array();
  for (const gguf_tensor& t : file.tensors)
    out["tensors"].push_back({{"name", t.name},
                              {"type", info(t.type).name},
                              {"shape", t.shape},
                              {"file", t.file},
                              {"offset", t.offset},
                              {"bytes", t.bytes}});
  return out;
}

std::string as_text(const gguf_file& file, const model_summary& s, const inspect_options& options) {
  const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
  const std::string on = terminal.colour ? "\x1b[1m" : "";
  const std::string off = terminal.colour ? "\x1b[0m" : "";
  table metadata{{{"key"}, {"type"}, {"value"}}, {}};
  std::size_t key_width = 3;
  for (const auto& [key, value] : file.metadata)
    key_width = std::max(key_width, display_width(escape(key)));
  const std::size_t taken = key_width + 2 + 8 + 2;
  const std::size_t width = std::max<std::size_t>(terminal.interactive ? terminal.width : 100, taken + 24);
  for (const auto& [key, value] : file.metadata)
    metadata.rows.push_back(
        {escape(key), type_name(value), value_text(value, options.full ? std::size_t{1} << 40 : width - taken)});
  table tensors{{{"tensor"}, {"type"}, {"shape"}, {"size", true}}, {}};
  for (const gguf_tensor& t : file.tensors)
    tensors.rows.push_back({escape(t.name), std::string(info(t.type).name), t.shape_text(), format_bytes(t.bytes)});
  std::string text = metadata.aligned(on, off) + "\n";
  if (!tensors.rows.empty())
    text += tensors.aligned(on, off) + "\n";
  text += fmt::format("GGUF {}, {}: {} parameters in {}, {}, {} in {}\n", file.version,
                      s.architecture.empty() ? "no architecture" : escape(s.architecture), format_count(s.parameters),
                      count_of(file.tensors.size(), "tensor"), s.type.empty() ? "no weights" : "mostly " + s.type,
                      format_bytes(s.file_bytes), count_of(file.files.size(), "file"));
  return text;
}

void execute(const inspect_options& options, command_context& env) {
  if (options.files.size() > 1)
    throw error(errc::invalid_argument, "inspect shows one file at a time; a split model is named by any of its parts");
  const gguf_file file = gguf_file::open(env.choose_model(options.files.empty() ? options.model : options.files[0]));
  const model_summary s = summarise(file);
  say_notes(notes_of(file));
  env.out.write(options.json ? as_json(file, s).dump(2, ' ', false, json::error_handler_t::replace) + "\n"
                             : as_text(file, s, options));
}

} // namespace

command make_inspect() {
  auto options = std::make_shared<inspect_options>();
  return {.name = "inspect",
          .summary = "metadata and tensors of a model file",
          .help = {.about = "Shows the metadata and the tensors of a GGUF file, all parts of a split one.",
                   .usage = "tropilla inspect [options] FILE",
                   .example = "  tropilla inspect model.gguf | less"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
