// `tropilla cache`: lists and removes the packed weights that earlier runs left on the disk.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/table.hpp"
#include "app/text.hpp"
#include "memory/arbiter.hpp"
#include "memory/bytes.hpp"
#include "src/io/packed_cache.hpp"

#include <algorithm>
#include <ctime>
#include <fmt/format.h>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <unistd.h>

namespace tropilla::app {
namespace {

using json = nlohmann::ordered_json;

struct cache_options {
  std::vector<std::string> words;
  bool all = false;
  bool json = false;
  bool quiet = false;

  void bind(option_binder& b) {
    b.flag({"--all", "", "with rm: all entries"}, all);
    b.flag({"--json", "", "an array, one object per entry (of rm: per entry that was removed)"}, json);
    b.flag({"-q,--quiet", "", "with verify: no progress"}, quiet);
    b.positionals("words", words);
  }
};

std::string_view name_of(packed_entry::state state) {
  constexpr std::string_view names[] = {"complete", "building", "partial", "unusable"};
  return names[static_cast<std::size_t>(state)];
}

std::string local_time(std::int64_t seconds) {
  const std::time_t time = seconds;
  std::tm parts{};
  char text[32];
  if (!::localtime_r(&time, &parts) || std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &parts) == 0)
    return fmt::format("{}", seconds);
  return text;
}

void show(const std::vector<packed_entry>& entries, bool as_json, command_context& env) {
  if (as_json) {
    json out = json::array();
    for (const packed_entry& e : entries)
      out.push_back({{"key", e.key},
                     {"model", e.description},
                     {"bytes", e.bytes},
                     {"last_used", e.last_used},
                     {"state", name_of(e.what)}});
    env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
    return;
  }
  table t{{{"key"}, {"model"}, {"size", true}, {"last used"}, {"state"}}, {}};
  std::size_t total = 0;
  for (const packed_entry& e : entries) {
    t.rows.push_back(
        {e.key, escape(e.description), format_bytes(e.bytes), local_time(e.last_used), std::string(name_of(e.what))});
    total += e.bytes;
  }
  const terminal_facts terminal = inspect_terminal(STDOUT_FILENO);
  if (!entries.empty())
    env.out.write(t.aligned(terminal.colour ? "\x1b[1m" : "", terminal.colour ? "\x1b[0m" : "") + "\n");
  env.out.write(
      fmt::format("{} {}, {}\n", entries.size(), entries.size() == 1 ? "entry" : "entries", format_bytes(total)));
}

/// The entries of the one key that begins with a word. Throws `error` (invalid_argument) when no key does, or more than
/// one.
std::vector<packed_entry> find(const std::vector<packed_entry>& entries, const std::string& word,
                               const std::filesystem::path& folder) {
  std::vector<packed_entry> found;
  for (const packed_entry& e : entries)
    if (!word.empty() && e.key.starts_with(word))
      found.push_back(e);
  if (found.empty())
    throw error(errc::invalid_argument,
                fmt::format("no entry \"{}\" in {} (tropilla cache ls lists them)", escape(word), folder.string()));
  if (found.front().key != found.back().key) // sorted by key
    throw error(errc::invalid_argument,
                fmt::format("\"{}\" begins more than one key: {} and {}", word, found.front().key, found.back().key));
  return found;
}

void remove(const std::vector<packed_entry>& entries, bool as_json, const std::filesystem::path& folder,
            command_context& env) {
  std::vector<packed_entry> removed;
  std::string refusal;
  for (const packed_entry& e : entries) {
    const auto key = packed_key::parse(e.key);
    const std::string failure = key ? packed_cache::remove(folder, *key) : "";
    if (failure.empty())
      removed.push_back(e);
    else
      refusal = failure;
  }
  if (as_json) {
    show(removed, true, env);
  } else if (!removed.empty()) {
    std::size_t bytes = 0;
    for (const packed_entry& e : removed)
      bytes += e.bytes;
    env.out.write(fmt::format("removed {} {}, {}\n", removed.size(), removed.size() == 1 ? "entry" : "entries",
                              format_bytes(bytes)));
  } else if (refusal.empty()) {
    env.out.write("nothing to remove\n");
  }
  if (!refusal.empty())
    throw error(errc::io_error, refusal);
}

/// The result of `cache verify` for an entry.
struct verdict {
  std::string state;  ///< "sound" or "damaged" of a complete one, else as `name_of`
  std::string reason; ///< why it is damaged

  /// Whether the entry makes `verify` fail. Entries that are being built, or were left half-built, are not read by
  /// anything.
  [[nodiscard]] bool refuses() const { return state == "damaged" || state == name_of(packed_entry::state::unusable); }
};

verdict verify(const packed_entry& e, const std::filesystem::path& folder,
               const std::function<void(std::uint64_t)>& read) {
  if (e.what != packed_entry::state::complete)
    return {std::string(name_of(e.what)), ""};
  const auto key = packed_key::parse(e.key);
  const auto file = key ? packed_cache::open(folder, *key) : std::nullopt;
  if (!file)
    return {"damaged", "it can't be opened any more"};
  for (std::size_t i = 0; i < file->sections(); ++i) {
    if (auto reason = file->verify(i); !reason.empty())
      return {"damaged", std::move(reason)};
    read(file->section(i).bytes);
  }
  return {"sound", ""};
}

void verify_all(const std::vector<packed_entry>& entries, const cache_options& options,
                const std::filesystem::path& folder, command_context& env) {
  std::uint64_t total = 0, done = 0;
  for (const packed_entry& e : entries)
    total += e.what == packed_entry::state::complete ? e.bytes : 0;
  progress shown("checking", progress::unit::bytes, options.quiet || options.json, env.status);
  json out = json::array();
  std::vector<std::string> refused;
  for (const packed_entry& e : entries) {
    const verdict v = verify(e, folder, [&](std::uint64_t bytes) {
      done += bytes;
      shown.update(std::min(done, total), total);
    });
    if (v.refuses())
      refused.push_back(e.key);
    if (options.json)
      out.push_back({{"key", e.key}, {"model", e.description}, {"state", v.state}, {"reason", v.reason}});
    else
      env.out.write(fmt::format("{}  {:<8}  {}{}\n", e.key, v.state, escape(e.description),
                                v.reason.empty() ? "" : " (" + v.reason + ")"));
  }
  shown.finish();
  if (options.json)
    env.out.write(out.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  if (!refused.empty())
    throw error(
        errc::malformed_file,
        fmt::format("{} of {} entries {} not sound; the next run that uses one writes it over again, or remove it: "
                    "tropilla cache rm {}",
                    refused.size(), entries.size(), refused.size() == 1 ? "is" : "are", fmt::join(refused, " ")));
}

/// The entries that keys mean, each once.
std::vector<packed_entry> choose(const std::vector<packed_entry>& entries, std::span<const std::string> keys,
                                 const std::filesystem::path& folder) {
  std::vector<packed_entry> chosen;
  for (const std::string& key : keys)
    for (const packed_entry& e : find(entries, key, folder))
      if (std::none_of(chosen.begin(), chosen.end(),
                       [&](const packed_entry& c) { return c.key == e.key && c.what == e.what; }))
        chosen.push_back(e);
  return chosen;
}

void execute(const cache_options& options, command_context& env) {
  const std::string verb = options.words.empty() ? "" : options.words[0];
  if (verb != "ls" && verb != "rm" && verb != "verify")
    throw error(errc::invalid_argument, verb.empty()
                                            ? "cache wants ls or rm, or verify (tropilla cache --help)"
                                            : fmt::format("cache knows ls, rm and verify, not \"{}\"", escape(verb)));
  const auto folder = packed_cache_directory();
  if (folder.empty())
    throw error(errc::invalid_argument, "there is no cache: neither HOME nor XDG_CACHE_HOME names a folder");
  const auto entries = packed_cache::list(folder);
  const std::span keys = std::span(options.words).subspan(1);
  if (verb == "ls") {
    if (!keys.empty())
      throw error(errc::invalid_argument, "cache ls lists all entries and takes no key");
    show(entries, options.json, env);
    return;
  }
  if (verb == "verify") {
    if (options.all)
      throw error(errc::invalid_argument, "cache verify checks all entries when no key is given; --all is for rm");
    verify_all(keys.empty() ? entries : choose(entries, keys, folder), options, folder, env);
    return;
  }
  if (keys.empty() != options.all)
    throw error(errc::invalid_argument, "cache rm wants keys (tropilla cache ls lists them) or --all, and not both");
  if (options.all) {
    remove(entries, options.json, folder, env);
    return;
  }
  remove(choose(entries, keys, folder), options.json, folder, env);
}

} // namespace

command make_cache() {
  auto options = std::make_shared<cache_options>();
  return {
      .name = "cache",
      .summary = "packed weights on the disk: list, check, remove",
      .help = {.about = "Shows, checks or removes packed weights: files that make the next start of a model faster.",
               .usage = "tropilla cache ls [--json]\n       tropilla cache verify [KEY...] [--json]\n"
                        "       tropilla cache rm KEY... | --all [--json]",
               .notes = "  ls      key, model, size, last use and state of each entry\n"
                        "  verify  reads entries, or all, and compares them with their checksums; status\n"
                        "          2 when one is damaged. Runs compare what they read, too, and mend it\n"
                        "  rm      removes entries by key, or the beginning of one; who uses one keeps it\n\n"
                        "They lie in $XDG_CACHE_HOME/tropilla/packed (~/.cache/tropilla/packed). States: complete; "
                        "building (a process packs it now: rm refuses); partial (that process was killed); unusable "
                        "(damaged, or of another version). The last two are built anew when they are wanted.",
               .example = "  tropilla cache ls"},
      .bind = [options](option_binder& b) { options->bind(b); },
      .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
