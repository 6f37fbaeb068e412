/// Finds GGUF files in the places where programs keep them, and the one that a name means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace tropilla::app {

/// A folder that is searched, and the program that owns it.
struct model_place {
  std::string owner; ///< "tropilla", "Hugging Face", "LM Studio", "llama.cpp", "ollama"
  std::filesystem::path folder;
};

/// The folders of this user, by the variables and the folders that each program documents; not all of them exist.
[[nodiscard]] std::vector<model_place> model_places();

/// A model that was found; for a split one, its first part.
struct model_file {
  std::string name;  ///< of the file, without ".gguf", "-00001-of-00003" or the like; "llama3.2:1b" of ollama's
  std::string owner; ///< as in `model_place`
  std::filesystem::path path;
  std::size_t parts = 1; ///< as the name says
};

/// Limits of a search, so that it ends soon whatever lies in a folder.
struct search_limits {
  std::size_t depth = 8;        ///< folders inside of folders
  std::size_t entries = 20'000; ///< of a place, files and folders
  std::size_t models = 1'000;   ///< of all places
};

struct found_models {
  std::vector<model_file> models;    ///< sorted by name; each file once, whatever its links
  std::vector<std::string> left_out; ///< sentences: what was not searched, and why
};

/// Looks at names, never into files but ollama's manifests. What can't be read is left out with a sentence; only
/// regular files count, or links to them. Throws nothing but `std::bad_alloc`.
[[nodiscard]] found_models find_models(const std::vector<model_place>& places, const search_limits& limits = {});

/// The facts in a model's header.
struct model_header {
  std::string architecture, type;
  std::uint64_t parameters = 0;
  std::uint64_t bytes = 0; ///< of all parts
  std::string problem;     ///< why it can't be read; the rest is what is known all the same
};

/// Reads the header of a model; never throws for what is in the file.
[[nodiscard]] model_header read_header(const model_file& file);

/// Finds the file that `-m NAME` means: a path that exists, else the model of that name, file name or, if there is but
/// one, of a name that contains it (upper and lower case are the same). Throws `error` (invalid_argument, io_error)
/// with what there is.
[[nodiscard]] std::filesystem::path find_model(const std::string& name, const std::vector<model_place>& places);

/// Finds the model of a command that named none: the only one in tropilla's own folder, where scripts/run.sh puts what
/// it obtains. `note` gets a sentence that says so. Throws `error` (invalid_argument) with what to do, where there are
/// none or several.
[[nodiscard]] std::filesystem::path default_model(const std::vector<model_place>& places,
                                                  const std::function<void(std::string_view)>& note);

/// Calls `find_model` for a name, `default_model` for none.
[[nodiscard]] std::filesystem::path choose_model(const std::string& name,
                                                 const std::function<void(std::string_view)>& note);

} // namespace tropilla::app
