// Searches folders that other programs fill.
#include "app/model_files.hpp"

#include "app/files.hpp"
#include "app/model_summary.hpp"
#include "app/text.hpp"
#include "src/model/gguf.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sys/stat.h>

namespace tropilla::app {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view our_own = "tropilla";
constexpr std::string_view ollama = "ollama";

fs::path variable(const char* name) {
  const char* value = std::getenv(name);
  return value && value[0] == '/' ? fs::path(value) : fs::path();
}

/// "NAME-00002-of-00003" as NAME, 2 and 3.
struct split_stem {
  std::string name;
  std::size_t number = 1, count = 1;
};

split_stem stem_of(const std::string& stem) {
  constexpr std::size_t tail = std::string_view("-00001-of-00003").size();
  split_stem s{stem, 1, 1};
  if (stem.size() <= tail || stem[stem.size() - tail] != '-' || stem.substr(stem.size() - 9, 4) != "-of-")
    return s;
  const auto number = [&](std::size_t from_end, std::size_t& to) {
    const char* begin = stem.data() + stem.size() - from_end;
    const auto [end, problem] = std::from_chars(begin, begin + 5, to);
    return problem == std::errc{} && end == begin + 5 && to > 0;
  };
  std::size_t n = 0, of = 0;
  if (number(tail - 1, n) && number(5, of) && n <= of)
    s = {stem.substr(0, stem.size() - tail), n, of};
  return s;
}

/// A search: the models found so far, and the files known under another name.
class search {
public:
  explicit search(const search_limits& limits) : limits_(limits) {}

  void place(const model_place& where) {
    entries_ = 0;
    full_ = false;
    if (where.owner == ollama)
      manifests(where.folder / "manifests", where.folder / "blobs");
    else
      folder(where.owner, where.folder, 0);
  }

  found_models take() {
    std::sort(found_.models.begin(), found_.models.end(), [](const model_file& a, const model_file& b) {
      return std::tie(a.name, a.path) < std::tie(b.name, b.path);
    });
    return std::move(found_);
  }

private:
  /// The entries of a folder, sorted, so that a search that ends early ends at the same place every time. Names that
  /// begin with a dot are locks, parts of downloads and the like.
  std::vector<fs::path> entries_of(const fs::path& folder) {
    std::vector<fs::path> out;
    std::error_code problem;
    for (fs::directory_iterator it(folder, problem), end; !problem && it != end; it.increment(problem)) {
      if (++entries_ > limits_.entries) {
        stop(fmt::format("the rest of {}: more than {} files and folders", folder.string(), limits_.entries));
        break;
      }
      if (const std::string name = it->path().filename().string(); !name.starts_with('.'))
        out.push_back(it->path());
    }
    if (problem && problem != std::errc::no_such_file_or_directory)
      found_.left_out.push_back(fmt::format("{}: {}", escape(folder.string()), problem.message()));
    std::sort(out.begin(), out.end());
    return out;
  }

  void stop(const std::string& sentence) {
    if (!std::exchange(full_, true))
      found_.left_out.push_back(escape(sentence));
  }

  /// Searches a folder. Links to folders are not followed, since they may lead around in circles.
  void folder(const std::string& owner, const fs::path& where, std::size_t depth) {
    for (const fs::path& path : entries_of(where)) {
      std::error_code ignored;
      if (fs::is_directory(fs::symlink_status(path, ignored))) {
        if (full_)
          continue;
        if (depth + 1 >= limits_.depth)
          found_.left_out.push_back(fmt::format("{}: folders {} deep", escape(path.string()), limits_.depth));
        else
          folder(owner, path, depth + 1);
      } else if (path.extension() == ".gguf") {
        const split_stem stem = stem_of(path.stem().string());
        if (stem.number == 1)
          add({stem.name, owner, path, stem.count});
      }
    }
  }

  void add(model_file model) {
    struct stat facts {};
    if (::stat(model.path.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode))
      return; // a link to nothing, a pipe: no model
    if (!known_.insert({facts.st_dev, facts.st_ino}).second)
      return;
    if (found_.models.size() >= limits_.models)
      return stop(fmt::format("more than {} models", limits_.models));
    found_.models.push_back(std::move(model));
  }

  /// Searches ollama's manifests: manifests/HOST/NAMESPACE/MODEL/TAG is a small JSON file that names blobs/sha256-...
  void manifests(const fs::path& where, const fs::path& blobs, std::size_t depth = 0) {
    for (const fs::path& path : entries_of(where)) {
      std::error_code ignored;
      if (fs::is_directory(fs::symlink_status(path, ignored))) {
        if (depth < 3 && !full_)
          manifests(path, blobs, depth + 1);
      } else if (depth == 3 && fs::is_regular_file(path, ignored)) {
        manifest(path, blobs);
      }
    }
  }

  void manifest(const fs::path& path, const fs::path& blobs) {
    try {
      const auto json = nlohmann::json::parse(read_file(path, max_settings_bytes));
      for (const auto& layer : json.at("layers")) {
        if (layer.at("mediaType") != "application/vnd.ollama.image.model")
          continue;
        std::string digest = layer.at("digest");
        std::replace(digest.begin(), digest.end(), ':', '-');
        if (digest.find('/') == std::string::npos)
          add({fmt::format("{}:{}", path.parent_path().filename().string(), path.filename().string()),
               std::string(ollama), blobs / digest, 1});
      }
    } catch (const std::exception& e) {
      found_.left_out.push_back(fmt::format("{}: no manifest of ollama", escape(path.string())));
    }
  }

  search_limits limits_;
  found_models found_;
  std::set<std::pair<dev_t, ino_t>> known_;
  std::size_t entries_ = 0; ///< of this place
  bool full_ = false;
};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

/// Lists at most five models, each with its folder where the names alone do not tell them apart.
std::string list_of(const std::vector<const model_file*>& models) {
  constexpr std::size_t max_shown = 5;
  std::vector<std::string> shown;
  for (const model_file* m : models) {
    if (shown.size() == max_shown) {
      shown.push_back(fmt::format("{} more", models.size() - max_shown));
      break;
    }
    const auto twins =
        std::count_if(models.begin(), models.end(), [&](const model_file* o) { return o->name == m->name; });
    shown.push_back(escape(twins > 1 ? m->path.string() : m->name));
  }
  return fmt::format("{}", fmt::join(shown, ", "));
}

template <class F>
std::vector<const model_file*> those(const std::vector<model_file>& models, F wanted) {
  std::vector<const model_file*> out;
  for (const model_file& m : models)
    if (wanted(m))
      out.push_back(&m);
  return out;
}

} // namespace

std::vector<model_place> model_places() {
  const fs::path home = variable("HOME");
  const fs::path caches = user_directory("XDG_CACHE_HOME", ".cache");
  std::vector<model_place> places;
  const auto add = [&](std::string_view owner, const fs::path& folder) {
    if (!folder.empty() && folder.is_absolute())
      places.push_back({std::string(owner), folder});
  };
  const auto below = [](const fs::path& folder, const char* rest) { return folder.empty() ? folder : folder / rest; };
  add(our_own, below(caches, "tropilla/models"));
  const fs::path hub = variable("HF_HUB_CACHE"), hugging_face = variable("HF_HOME");
  add("Hugging Face", !hub.empty()            ? hub
                      : !hugging_face.empty() ? hugging_face / "hub"
                                              : below(caches, "huggingface/hub"));
  add("LM Studio", below(home, ".lmstudio/models"));
  add("LM Studio", below(home, ".cache/lm-studio/models"));
  const fs::path llama = variable("LLAMA_CACHE");
  add("llama.cpp", llama.empty() ? below(caches, "llama.cpp") : llama);
  const fs::path blobs = variable("OLLAMA_MODELS");
  add(ollama, blobs.empty() ? below(home, ".ollama/models") : blobs);
  return places;
}

found_models find_models(const std::vector<model_place>& places, const search_limits& limits) {
  search s(limits);
  for (const model_place& where : places)
    s.place(where);
  return s.take();
}

model_header read_header(const model_file& model) {
  model_header h;
  std::error_code unknown;
  h.bytes = fs::file_size(model.path, unknown);
  if (unknown)
    h.bytes = 0;
  try {
    const gguf_file file = gguf_file::open(model.path);
    const model_summary s = summarise(file);
    h.architecture = s.architecture;
    h.type = s.type;
    h.parameters = s.parameters;
    h.bytes = s.file_bytes;
  } catch (const std::exception& e) {
    h.problem = e.what();
  }
  return h;
}

fs::path find_model(const std::string& name, const std::vector<model_place>& places) {
  fs::path path = expand_home(name);
  std::error_code ignored;
  if (fs::exists(path, ignored))
    return path;
  const found_models found = find_models(places);
  const std::string wanted = lower(name);
  const std::string stem = wanted.ends_with(".gguf") ? wanted.substr(0, wanted.size() - 5) : wanted;
  auto chosen = those(found.models, [&](const model_file& m) {
    return lower(m.name) == stem || lower(m.path.filename().string()) == wanted;
  });
  const bool is_path = name.find('/') != std::string::npos;
  if (chosen.empty() && !is_path && !name.ends_with(".gguf"))
    chosen = those(found.models, [&](const model_file& m) { return lower(m.name).find(wanted) != std::string::npos; });
  if (chosen.size() == 1)
    return chosen.front()->path;
  if (chosen.size() > 1)
    throw error(errc::invalid_argument,
                fmt::format("\"{}\" is the name of {} models: {}; name one in full, or its path", escape(name),
                            chosen.size(), list_of(chosen)));
  if (is_path || name.ends_with(".gguf"))
    throw error(errc::io_error, fmt::format("can't read {}: No such file or directory (tropilla models lists what is "
                                            "on this machine)",
                                            escape(name)));
  std::vector<std::string> names;
  for (const model_file& m : found.models)
    names.push_back(m.name);
  const std::string near = closest(name, names);
  throw error(
      errc::invalid_argument,
      fmt::format("no model \"{}\": neither a file nor a part of the name of one that `tropilla models` lists{}",
                  escape(name), near.empty() ? "" : fmt::format("; did you mean {}?", escape(near))));
}

fs::path default_model(const std::vector<model_place>& places, const std::function<void(std::string_view)>& note) {
  std::vector<model_place> own;
  for (const model_place& where : places)
    if (where.owner == our_own)
      own.push_back(where);
  const found_models found = find_models(own);
  if (found.models.size() == 1) {
    const model_file& only = found.models.front();
    note(fmt::format("no -m: using {} of {}", escape(only.name), escape(only.path.parent_path().string())));
    return only.path;
  }
  constexpr std::string_view how = "name one with -m FILE, TROPILLA_MODEL or a --config file";
  if (found.models.empty())
    throw error(errc::invalid_argument,
                fmt::format("no model: {} (tropilla models lists what is on this machine); scripts/model.sh obtains a "
                            "small one",
                            how));
  throw error(errc::invalid_argument,
              fmt::format("no model, and {} has {}: {}; {}", own.empty() ? "" : escape(own.front().folder.string()),
                          found.models.size(), list_of(those(found.models, [](const model_file&) { return true; })),
                          how));
}

fs::path choose_model(const std::string& name, const std::function<void(std::string_view)>& note) {
  return name.empty() ? default_model(model_places(), note) : find_model(name, model_places());
}

} // namespace tropilla::app
