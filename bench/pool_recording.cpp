// Reads and writes recordings, and closes the circle of a trace's grants and returns.
#include "bench/pool_recording.hpp"

#include "tropilla/error.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

namespace tropilla::bench {
namespace {

using json = nlohmann::json;

/// The alignment of a runtime's pools.
constexpr std::size_t pool_alignment = 4096;

json parse(const std::string& path) {
  std::ifstream in(path);
  if (!in)
    throw error(errc::io_error, fmt::format("{} can't be read", path));
  return json::parse(in);
}

/// Lists go on in the next line where a line is full.
template <class List, class Format>
std::string wrapped(const List& list, Format format) {
  constexpr std::size_t line_bytes = 110;
  std::string out, line;
  for (const auto& item : list) {
    const std::string text = format(item);
    if (!line.empty() && line.size() + text.size() > line_bytes) {
      out += line + "\n  ";
      line.clear();
    }
    line += text + ",";
  }
  out += line;
  if (!out.empty())
    out.pop_back();
  return out;
}

/// A block that is there, while a trace is read.
struct living {
  std::size_t kind = 0;
  std::optional<std::size_t> allocation; ///< none: it was there at the beginning
  std::size_t number = 0;                ///< in the order of coming
};

/// Follows the blocks of one device through a trace.
class circle {
public:
  void granted(const std::string& purpose, std::size_t bytes, std::size_t offset) {
    living b{kind_of(purpose, bytes), std::nullopt, came_++};
    if (recording_) {
      b.allocation = out_.allocations.size();
      out_.allocations.push_back({b.kind, 0});
    }
    if (!there_.try_emplace(offset, b).second)
      throw error(errc::malformed_file, fmt::format("the trace grants the block at {} twice", offset));
  }

  void returned(std::size_t offset) {
    const auto it = there_.find(offset);
    if (it == there_.end())
      throw error(errc::malformed_file, fmt::format("the trace returns a block at {} that it never granted", offset));
    const auto b = it->second;
    there_.erase(it);
    if (!recording_)
      return;
    const std::size_t now = out_.allocations.size();
    if (b.allocation)
      out_.allocations[*b.allocation].life = now - *b.allocation;
    else
      went_.emplace(b.kind, now);
  }

  void record() { recording_ = true; }

  pool_recording close() {
    std::vector<living> last;
    for (const auto& [offset, b] : there_)
      last.push_back(b);
    std::ranges::sort(last, {}, &living::number);
    const std::size_t seam = out_.allocations.size();
    std::vector<std::pair<std::size_t, std::size_t>> across; ///< allocation, and how far behind the seam it is freed
    for (const auto& b : last) {
      if (!b.allocation)
        out_.stay.push_back(b.kind);
      else if (const auto successor = went_.find(b.kind); successor != went_.end()) {
        across.emplace_back(*b.allocation, successor->second);
        went_.erase(successor);
      } else {
        out_.allocations[*b.allocation].life = seam - *b.allocation;
      }
    }
    for (const auto& [kind, when] : went_) {
      across.emplace_back(out_.allocations.size(), when);
      out_.allocations.push_back({kind, 0});
    }
    for (const auto& [which, when] : across)
      out_.allocations[which].life = out_.allocations.size() - which + when;
    out_.alignment = pool_alignment;
    return std::move(out_);
  }

private:
  std::size_t kind_of(const std::string& purpose, std::size_t bytes) {
    const auto it =
        std::ranges::find_if(out_.kinds, [&](const auto& k) { return k.purpose == purpose && k.bytes == bytes; });
    const auto kind = static_cast<std::size_t>(it - out_.kinds.begin());
    if (kind == out_.kinds.size())
      out_.kinds.push_back({purpose, bytes});
    return kind;
  }

  pool_recording out_;
  bool recording_ = false;
  std::size_t came_ = 0;
  std::map<std::size_t, living> there_; ///< by offset
  std::multimap<std::size_t, std::size_t>
      went_; ///< of those at the beginning, kind and allocation before which it went
};

} // namespace

pool_recording read_recording(const std::string& path) {
  try {
    const json j = parse(path);
    pool_recording r;
    j.at("how").get_to(r.how);
    j.at("alignment").get_to(r.alignment);
    for (const auto& k : j.at("kinds"))
      r.kinds.push_back({k.at(0), k.at(1)});
    j.at("stay").get_to(r.stay);
    for (const auto& a : j.at("allocations"))
      r.allocations.push_back({a.at(0), a.at(1)});
    const auto unknown = [&](std::size_t kind) { return kind >= r.kinds.size(); };
    const auto impossible = [&](const auto& a) {
      return unknown(a.kind) || a.life == 0 || a.life > 2 * r.allocations.size();
    };
    if (r.alignment == 0 || (r.alignment & (r.alignment - 1)) != 0 || r.allocations.empty() ||
        std::ranges::any_of(r.stay, unknown) || std::ranges::any_of(r.allocations, impossible))
      throw error(errc::malformed_file, fmt::format("{} names a kind, a life or an alignment that can't be", path));
    return r;
  } catch (const json::exception& e) {
    throw error(errc::malformed_file, fmt::format("{} is no recording of a pool: {}", path, e.what()));
  }
}

void write_recording(const pool_recording& r, const std::string& path) {
  std::ofstream out(path, std::ios::trunc);
  out << fmt::format(
      "{{\"how\": {},\n \"alignment\": {},\n \"kinds\": [\n  {}],\n \"stay\": [\n  {}],\n \"allocations\": [\n  "
      "{}]}}\n",
      json(r.how).dump(), r.alignment,
      wrapped(r.kinds, [](const auto& k) { return fmt::format("[{},{}]", json(k.purpose).dump(), k.bytes); }),
      wrapped(r.stay, [](std::size_t k) { return fmt::format("{}", k); }),
      wrapped(r.allocations, [](const auto& a) { return fmt::format("[{},{}]", a.kind, a.life); }));
  if (!out.flush())
    throw error(errc::io_error, fmt::format("{} can't be written", path));
}

pool_recording recording_of_trace(const std::string& trace) {
  constexpr std::string_view of_memory = "actor memory_manager ";
  try {
    const json j = parse(trace);
    std::map<std::size_t, std::string> tracks;
    std::optional<std::size_t> pool;
    std::vector<const json*> events;
    double begin = 0, end = 0;
    for (const auto& e : j.at("traceEvents")) {
      const auto& name = e.at("name").get_ref<const std::string&>();
      if (name == "thread_name") {
        const auto [it, is_new] = tracks.emplace(e.at("tid"), e.at("args").at("name"));
        if (!pool && it->second.starts_with(of_memory))
          pool = it->first;
      } else if (name == "run_step") {
        begin = end == 0 ? e.at("ts").get<double>() : std::min(begin, e.at("ts").get<double>());
        end = std::max(end, e.at("ts").get<double>() + e.at("dur").get<double>());
      } else if (pool && e.contains("tid") && e.at("tid") == *pool && e.contains("args") &&
                 e.at("args").contains("offset")) {
        events.push_back(&e);
      }
    }
    if (end == 0)
      throw error(errc::malformed_file, fmt::format("{} has no step of a runtime", trace));
    circle blocks;
    bool recording = false;
    for (const auto* e : events) { // in the order of the arbiter, which recorded them with its lock held
      const double at = e->at("ts");
      if (at > end)
        break;
      if (at >= begin && !std::exchange(recording, true))
        blocks.record();
      const auto& arguments = e->at("args");
      if (arguments.contains("granted_bytes"))
        blocks.granted(e->at("name"), arguments.at("granted_bytes"), arguments.at("offset"));
      else
        blocks.returned(arguments.at("offset"));
    }
    return blocks.close();
  } catch (const json::exception& e) {
    throw error(errc::malformed_file, fmt::format("{} is no trace of a runtime: {}", trace, e.what()));
  }
}

} // namespace tropilla::bench
