// `tropilla models`: lists the GGUF files of this machine.
#include "app/command.hpp"

#include "app/model_files.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"

#include <cstdlib>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct models_options {
  bool json = false;
  void bind(option_binder& b) { b.flag({"--json", "", "one object: models, and what was left out"}, json); }
};

/// The path with "~" for the home directory: "~/models/x.gguf".
std::string short_path(const std::filesystem::path& path) {
  const char* home = std::getenv("HOME");
  const std::string text = path.string();
  const std::string prefix = home && *home ? std::string(home) + "/" : "";
  return prefix.size() > 1 && text.starts_with(prefix) ? "~/" + text.substr(prefix.size()) : text;
}

void show_json(const found_models& found, command_context& env) {
  json out = {{"models", json::array()}, {"left_out", found.left_out}};
  for (const model_file& m : found.models) {
    const model_header h = read_header(m);
    out["models"].push_back({{"name", m.name},
                             {"owner", m.owner},
                             {"path", m.path.string()},
                             {"parts", m.parts},
                             {"bytes", h.bytes},
                             {"architecture", h.architecture},
                             {"type", h.type},
                             {"parameters", h.parameters}});
    if (!h.problem.empty())
      out["models"].back()["problem"] = h.problem;
  }
  env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

void show(const found_models& found, command_context& env) {
  table t{{{"name"}, {"architecture"}, {"type"}, {"parameters", true}, {"size", true}, {"of"}, {"where"}}, {}};
  std::string problems;
  for (const model_file& m : found.models) {
    const model_header h = read_header(m);
    const bool readable = h.problem.empty();
    t.rows.push_back({escape(m.name), readable ? escape(h.architecture) : "unreadable", h.type,
                      readable ? format_count(h.parameters) : "-", format_bytes(h.bytes), m.owner,
                      escape(short_path(m.path.parent_path()))});
    if (!readable)
      problems += fmt::format("unreadable: {}\n", without_controls(h.problem));
  }
  const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
  if (!found.models.empty())
    env.out.write(t.aligned(terminal.colour ? "\x1b[1m" : "", terminal.colour ? "\x1b[0m" : "") + "\n");
  env.out.write(problems);
  for (const std::string& sentence : found.left_out)
    env.out.write(fmt::format("left out: {}\n", sentence));
  if (!found.models.empty()) {
    env.out.write("-m takes a name, or a part that only one has.\n");
    return;
  }
  std::string places;
  for (const model_place& where : model_places())
    places += fmt::format("  {:<14}{}\n", where.owner, escape(short_path(where.folder)));
  env.out.write(
      fmt::format("no models; scripts/model.sh obtains a small one. These folders were searched:\n{}", places));
}

} // namespace

command make_models() {
  auto options = std::make_shared<models_options>();
  return {
      .name = "models",
      .summary = "list the models on this machine",
      .help = {.about = "Lists the GGUF files in the folders of tropilla, Hugging Face, LM Studio, llama.cpp and "
                        "ollama, by the names that -m takes.",
               .usage = "tropilla models [options]",
               .notes = R"(  tropilla      $XDG_CACHE_HOME/tropilla/models (~/.cache/tropilla/models)
  Hugging Face  $HF_HUB_CACHE, $HF_HOME/hub or ~/.cache/huggingface/hub
  LM Studio     ~/.lmstudio/models and ~/.cache/lm-studio/models
  llama.cpp     $LLAMA_CACHE or ~/.cache/llama.cpp
  ollama        $OLLAMA_MODELS or ~/.ollama/models

Only headers are read. A split model is one, and so is a file with several links.)",
               .example = "  tropilla models"},
      .bind = [options](option_binder& b) { options->bind(b); },
      .execute =
          [options](command_context& env) { (options->json ? show_json : show)(find_models(model_places()), env); }};
}

} // namespace tropilla::app
