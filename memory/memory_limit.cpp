// Reads the system's files and works out how much each limit leaves.
#include "memory/memory_limit.hpp"

#include "memory/bytes.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <fstream>
#include <optional>
#include <sstream>

namespace tropilla {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t mib = std::size_t{1} << 20;

/// A whole number, and nothing else; what does not fit counts as none.
std::optional<std::size_t> number(std::string_view text) {
  std::size_t value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc{} && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

/// The first word of a file as a number of bytes; empty for "max".
std::optional<std::size_t> bytes_in(const fs::path& file) {
  std::string word;
  std::ifstream(file) >> word;
  return number(word);
}

/// A file of the system's, in one piece: a reading takes 0.05 ms so, and 0.13 to 0.18 ms word by word. What can't be
/// read is left out; a stream's iterators would throw there.
std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  std::string text;
  for (std::array<char, 4096> block{}; in.read(block.data(), block.size()), in.gcount() > 0;)
    text.append(block.data(), static_cast<std::size_t>(in.gcount()));
  return text;
}

/// The number in the line that begins with `name`, of lines like "Name: 12 kB" (in bytes then) or "name 12".
std::optional<std::size_t> find(std::string_view text, std::string_view name) {
  for (std::size_t at = text.find(name); at != std::string_view::npos; at = text.find(name, at + 1)) {
    if (at > 0 && text[at - 1] != '\n')
      continue;
    std::string_view line = text.substr(at + name.size());
    line = line.substr(0, line.find('\n'));
    if (line.empty() || (line.front() != ':' && line.front() != ' '))
      continue; // a longer name
    line.remove_prefix(std::min(line.find_first_not_of(": \t"), line.size()));
    const auto end = line.find(' ');
    const auto value = number(line.substr(0, end));
    const bool kib = end != std::string_view::npos && line.substr(end) == " kB";
    if (!value || *value > unlimited / 1024)
      return std::nullopt;
    return kib ? *value * 1024 : *value;
  }
  return std::nullopt;
}

std::size_t less(std::size_t from, std::size_t bytes) {
  return from > bytes ? from - bytes : 0;
}

/// Bytes of a group that the kernel can free: file pages, and what it can free of its own for the group.
std::size_t reclaimable_bytes(const control_group& group) {
  const auto stat = text_of(group.folder / "memory.stat");
  const std::string sums = group.version == 1 ? "total_" : "";
  std::size_t bytes = find(stat, "slab_reclaimable").value_or(0);
  for (const char* pages : {"inactive_file", "active_file"})
    bytes += find(stat, sums + pages).value_or(find(stat, pages).value_or(0));
  return bytes;
}

std::optional<memory_bound> bound_of(const control_group& group) {
  std::optional<std::size_t> limit;
  const auto tighten = [&](const char* file) {
    if (const auto bytes = bytes_in(group.folder / file))
      limit = std::min(*bytes, limit.value_or(unlimited));
  };
  if (group.version == 2) {
    tighten("memory.max");
    tighten("memory.high"); // beyond it the kernel stops the process again and again
  } else {
    tighten("memory.limit_in_bytes");
  }
  constexpr std::size_t none_in_version_1 = std::size_t{1} << 60; // the largest number, rounded to pages
  if (!limit || *limit >= none_in_version_1)
    return std::nullopt;
  const char* usage = group.version == 2 ? "memory.current" : "memory.usage_in_bytes";
  const std::size_t used = bytes_in(group.folder / usage).value_or(0);
  const std::size_t kept = less(used, reclaimable_bytes(group));
  return memory_bound{
      memory_bound::counts::written, *limit, less(*limit, kept),
      fmt::format("the memory limit of {} of the control group {}", format_bytes(*limit), group.folder.string())};
}

/// "Max address space  1048576  unlimited  bytes": the soft limit.
std::optional<std::size_t> soft_limit(const std::string& limits, std::string_view name) {
  std::istringstream in(limits);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(name)) {
      std::string word;
      std::istringstream(line.substr(name.size())) >> word;
      return number(word);
    }
  return std::nullopt;
}

void add_mapped(memory_reading& out, std::optional<std::size_t> limit, std::size_t used, const std::string& who) {
  if (limit)
    out.bounds.push_back({memory_bound::counts::mapped, *limit, less(*limit, used), who});
}

} // namespace

memory_reader::memory_reader(memory_source source)
    : source_(std::move(source)), groups_(control_groups_of("memory", source_.groups)) {}

memory_reading memory_reader::read() const {
  memory_reading out;
  const auto machine = text_of(source_.proc / "meminfo");
  const auto self = text_of(source_.proc / "self/status");
  if (const auto available = find(machine, "MemAvailable"))
    out.bounds.push_back({memory_bound::counts::written, find(machine, "MemTotal").value_or(*available), *available,
                          "the memory that the machine has available", find(machine, "SwapFree").value_or(0)});
  if (const auto all = find(machine, "MemTotal"))
    out.machine = *all + find(machine, "SwapTotal").value_or(0);
  out.anonymous = find(self, "RssAnon").value_or(0);
  for (const auto& group : groups_)
    if (auto bound = bound_of(group))
      out.bounds.push_back(std::move(*bound));
  const auto limits = text_of(source_.proc / "self/limits");
  for (const auto& [name, used, words] : {std::tuple{"Max address space", "VmSize", "address space (ulimit -v)"},
                                          std::tuple{"Max data size", "VmData", "data (ulimit -d)"}}) {
    const auto limit = soft_limit(limits, name);
    add_mapped(out, limit, find(self, used).value_or(0),
               limit ? fmt::format("the limit of {} for {}", format_bytes(*limit), words) : "");
  }
  if (bytes_in(source_.proc / "sys/vm/overcommit_memory") == std::size_t{2})
    add_mapped(out, find(machine, "CommitLimit"), find(machine, "Committed_AS").value_or(0),
               "what the machine may still promise (vm.overcommit_memory is 2)");
  out.thread_stack = soft_limit(limits, "Max stack size").value_or(8 * mib);
  return out;
}

program_needs needs_of_runtime(std::size_t vocabulary, std::size_t thread_stack) {
  // Measured in control groups: anonymous memory exceeded the plan by 1 to 4 MiB (vocabularies of 1,024 to 49,152
  // tokens), the group's peak by 1.5 to 4 where the kernel had reclaimed the file pages. Of the rest 8 MiB are for
  // rounding to huge pages, and 11 for the program's code, which would be read again and again.
  constexpr std::size_t threads = 10; // that are made after the limit is read: the scheduler's, loaders, streams
  return {24 * mib + 128 * vocabulary, threads * thread_stack + 48 * mib + 128 * vocabulary};
}

memory_limit limit_of(const memory_reading& reading, const program_needs& needs) {
  memory_limit out;
  out.machine = reading.machine;
  for (const auto& bound : reading.bounds) {
    std::size_t bytes = less(bound.left, needs.written);
    if (bound.what == memory_bound::counts::mapped) {
      const std::size_t addresses = less(bound.left, needs.mapped);
      out.addresses = std::min(out.addresses, addresses);
      bytes = less(addresses, min_reservation(0)) / 9 * 8;
    }
    if (out.set_by.empty() || bytes < out.bytes) {
      out.bytes = bytes;
      out.set_by = bound.who;
    }
  }
  return out;
}

std::size_t min_reservation(std::size_t bytes) noexcept {
  return bytes + bytes / 8 + 2 * mib;
}

} // namespace tropilla
