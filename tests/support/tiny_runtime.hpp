/// A runtime over the tiny model, and its replies.
#pragma once

#include "runtime/reply_channel.hpp"
#include "tests/support/tiny_model.hpp"
#include "tropilla/runtime.hpp"

#include <string>
#include <vector>

namespace tropilla::testing {

inline runtime_config tiny_config(std::size_t threads = 2, std::size_t context = 256) {
  runtime_config c;
  c.model = tiny_model();
  c.threads = threads;
  c.context = context;
  return c;
}

/// The tokens of a reply, to its end. Throws what it failed with.
inline std::vector<token_id> ids_of(generation g) {
  std::vector<token_id> ids;
  for (const auto& p : g)
    if (p.id >= 0)
      ids.push_back(p.id);
  return ids;
}

/// As above, of a reply whose client is a channel.
inline std::vector<token_id> ids_of(reply_channel& channel) {
  std::vector<token_id> ids;
  while (const auto p = channel.next_piece())
    if (p->id >= 0)
      ids.push_back(p->id);
  return ids;
}

/// A reply at its end.
struct ended_reply {
  std::vector<token_id> ids;
  generation_statistics statistics;
};

/// Asks for so many of the most probable tokens behind a prompt, and waits for them.
inline ended_reply ask(runtime& rt, const std::vector<token_id>& ids, std::size_t tokens = 12) {
  generation_options o;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  auto g = rt.generate(ids, o);
  ended_reply out;
  for (const auto& p : g)
    if (p.id >= 0)
      out.ids.push_back(p.id);
  out.statistics = g.statistics();
  return out;
}

/// Bytes that a plan has for a device.
inline std::size_t planned_bytes(const plan_report& plan, const std::string& device) {
  std::size_t bytes = 0;
  for (const auto& line : plan.lines)
    bytes += line.device == device ? line.bytes : 0;
  return bytes;
}

/// Bytes of a plan but for KV pages, which are leased when tokens come to lie on them.
inline std::size_t planned_without_pages(const plan_report& plan) {
  std::size_t bytes = 0;
  for (const auto& line : plan.lines)
    bytes += line.purpose == "KV pages" ? 0 : line.bytes;
  return bytes;
}

/// The peaks of a device's purposes but KV pages, together.
inline std::size_t peak_without_pages(const memory_report& device) {
  std::size_t bytes = 0;
  for (const auto& p : device.purposes)
    bytes += p.purpose == "KV pages" ? 0 : p.peak_bytes;
  return bytes;
}

} // namespace tropilla::testing
