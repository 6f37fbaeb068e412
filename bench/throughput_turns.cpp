// Lets conversations come back in bench_throughput, to a runtime that served others meanwhile or to one that was opened
// since: what of their prompts is computed again, and how long the first token takes.
#include "bench/throughput_modes.hpp"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <iterator>
#include <span>

namespace tropilla::bench {
namespace {

/// New tokens of a message in a conversation that comes back.
constexpr std::size_t message_tokens = 16;

using replies = std::vector<std::shared_ptr<record>>;

/// The store's counters since the runtime opened, by name. Pages.
json store_counters(const load_report& load) {
  return {{"saved", load.store.saved}, {"restored", load.store.restored}, {"damaged", load.store.damaged}};
}

/// A runtime's counters at one moment.
struct moment {
  double at = 0;
  std::size_t preemptions = 0;
  json store;
};

moment look(const runtime& rt, const crowd& clients) {
  const auto load = rt.load();
  return {clients.now(), load.preemptions, store_counters(load)};
}

/// The least of the values that `percent` of them do not exceed.
double percentile(std::vector<double> values, double percent) {
  std::ranges::sort(values);
  const auto rank = static_cast<std::size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
  return values.at(std::max<std::size_t>(rank, 1) - 1);
}

double first_token_seconds(const record& r) {
  return r.times.front() - r.submitted;
}

/// What came of replies that all ended well between two moments. Prompt tokens that were computed once more after a
/// preemption count once.
json figures(std::span<const std::shared_ptr<record>> ended, const moment& begin, const moment& end) {
  std::size_t generated = 0, prompt = 0, reused = 0;
  std::vector<double> waits;
  for (const auto& r : ended) {
    generated += r->ids.size();
    prompt += r->cost.prompt_tokens;
    reused += r->cost.reused_tokens;
    waits.push_back(first_token_seconds(*r));
  }
  json store = json::object();
  for (const auto& [name, value] : end.store.items())
    store[name] = value.get<std::size_t>() - begin.store.at(name).get<std::size_t>();
  return {{"replies", ended.size()},
          {"wall_s", end.at - begin.at},
          {"tok_s", static_cast<double>(generated) / (end.at - begin.at)},
          {"first_token_s", {{"median", percentile(waits, 50)}, {"p95", percentile(waits, 95)}}},
          {"prompt_tokens", prompt},
          {"reused_tokens", reused},
          {"computed_tokens", prompt - reused},
          {"preemptions", end.preemptions - begin.preemptions},
          {"store", std::move(store)}};
}

/// FNV-1a of all ids, in order: equal for runs that generated the same.
std::string hash_of(const replies& ended) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const auto& r : ended)
    for (const auto id : r->ids)
      for (int shift = 0; shift < 32; shift += 8)
        hash = (hash ^ ((static_cast<std::uint32_t>(id) >> shift) & 0xff)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

void append(std::vector<token_id>& ids, const std::vector<token_id>& more) {
  ids.insert(ids.end(), more.begin(), more.end());
}

/// Every conversation sends its history and gets a reply, which the history then ends with. At most `parallel` at once,
/// in order; returns when all have ended. Throws `error` when one failed.
replies run_round(crowd& clients, std::vector<std::vector<token_id>>& histories, std::size_t tokens,
                  std::size_t parallel) {
  replies sent;
  try {
    for (const auto& h : histories) {
      clients.wait(parallel - 1);
      sent.push_back(clients.submit({h, tokens, 0, {}}));
    }
  } catch (...) {
    clients.wait(); // their callbacks use the crowd
    throw;
  }
  clients.wait();
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (sent[i]->failure)
      throw error(*sent[i]->failure);
    if (sent[i]->ids.size() != tokens)
      throw error(errc::invalid_argument, fmt::format("conversation {} got {} tokens, not {}: the context is too small",
                                                      i, sent[i]->ids.size(), tokens));
    append(histories[i], sent[i]->ids);
  }
  return sent;
}

/// Tokens of a conversation's context after so many turns.
std::size_t context_after(std::size_t turns, std::size_t prompt, std::size_t tokens) {
  return prompt + turns * tokens + (turns - 1) * message_tokens + 1;
}

/// Sends a message to a runtime, and the next one of the same conversation to another that is opened when the first is
/// gone. Returns what came of the second, and that runtime's counters in `store`.
std::shared_ptr<record> come_back(const throughput_options& o, std::size_t prompt, std::size_t tokens,
                                  std::uint64_t seed, json& store) {
  std::vector<std::vector<token_id>> history(1);
  const auto send = [&](std::size_t message, std::uint64_t own) {
    auto rt = open_runtime(o, 1, context_after(2, prompt, tokens), 0);
    append(history[0], random_ids(message, own, rt.model().vocabulary));
    crowd client(rt);
    auto reply = run_round(client, history, tokens, 1).front();
    store = store_counters(rt.load());
    return reply;
  };
  (void)send(prompt, seed);
  return send(message_tokens, seed + 1);
}

} // namespace

json run_turns(const throughput_options& o) {
  const std::size_t prompt = o.prompt > 0 ? o.prompt : 2000;
  const std::size_t tokens = o.tokens > 0 ? o.tokens : 32;
  if (o.conversations == 0 || o.parallel == 0 || o.turns < 2)
    throw error(errc::invalid_argument, "--conversations and --parallel are at least 1, --turns at least 2");
  const auto context = context_after(o.turns, prompt, tokens);
  auto rt = open_runtime(o, o.parallel, context, o.parallel * std::max(context, o.context));
  const auto vocabulary = rt.model().vocabulary;
  std::vector<std::vector<token_id>> histories;
  for (std::size_t i = 0; i < o.conversations; ++i) {
    histories.push_back(random_ids(prompt, o.seed + i, vocabulary));
    // No two begin alike, which at random a few of many do.
    histories.back().front() = static_cast<token_id>((o.seed + i) % vocabulary);
  }
  crowd clients(rt);
  json out = {{"mode", "turns"},
              {"isa", rt.isa()},
              {"threads", rt.threads()},
              {"conversations", o.conversations},
              {"parallel", o.parallel},
              {"prompt", prompt},
              {"tokens", tokens},
              {"turns", o.turns},
              {"max_kv_tokens", rt.plan().max_kv_tokens}};
  std::vector<moment> moments = {look(rt, clients)};
  replies all;
  for (std::size_t turn = 0; turn < o.turns; ++turn) {
    if (turn > 0)
      for (std::size_t i = 0; i < o.conversations; ++i)
        append(histories[i], random_ids(message_tokens, o.seed + turn * o.conversations + i, vocabulary));
    std::ranges::move(run_round(clients, histories, tokens, o.parallel), std::back_inserter(all));
    moments.push_back(look(rt, clients));
  }
  const auto ended = std::span(all);
  out["first"] = figures(ended.first(o.conversations), moments[0], moments[1]);
  out["returns"] = figures(ended.subspan(o.conversations), moments[1], moments.back());
  out["ids"] = hash_of(all);
  std::size_t failed = 0;
  for (const auto& d : rt.memory()) {
    out["devices"].push_back({{"name", d.device}, {"budget_bytes", d.budget_bytes}, {"peak_bytes", d.peak_bytes}});
    failed += d.peak_bytes > d.budget_bytes;
  }
  out["failed"] = failed;
  return out;
}

json run_restart(const throughput_options& o) {
  const std::size_t prompt = o.prompt > 0 ? o.prompt : 4000;
  const std::size_t tokens = o.tokens > 0 ? o.tokens : 32;
  if (o.pairs == 0)
    throw error(errc::invalid_argument, "--pairs is at least 1");
  auto kept = o, gone = o;
  kept.kv_disk_mib = o.kv_disk_mib > 0 ? o.kv_disk_mib : 1024;
  gone.kv_disk_mib = 0;
  json out = {{"mode", "restart"}, {"prompt", prompt}, {"tokens", tokens}};
  std::vector<double> with, without, ratios;
  std::size_t different = 0;
  for (std::size_t pair = 0; pair < o.pairs; ++pair) {
    // A conversation of its own: nothing of it is in the folder, unless another run with this seed left it there.
    const auto seed = o.seed + 2 * pair;
    json store, none;
    std::shared_ptr<record> a, b;
    // Every other pair the other way round, so that a machine that gets slower favours neither.
    if (pair % 2 == 0)
      a = come_back(gone, prompt, tokens, seed, none);
    b = come_back(kept, prompt, tokens, seed, store);
    if (pair % 2 == 1)
      a = come_back(gone, prompt, tokens, seed, none);
    without.push_back(first_token_seconds(*a));
    with.push_back(first_token_seconds(*b));
    ratios.push_back(without.back() / with.back());
    different += a->ids != b->ids;
    out["pairs"].push_back({{"without_s", without.back()},
                            {"with_s", with.back()},
                            {"ratio", ratios.back()},
                            {"prompt_tokens", b->cost.prompt_tokens},
                            {"reused_tokens", b->cost.reused_tokens},
                            {"store", std::move(store)}});
  }
  out["without_s"] = percentile(without, 50);
  out["with_s"] = percentile(with, 50);
  out["ratio"] = percentile(ratios, 50);
  out["different"] = different;
  out["failed"] = different;
  return out;
}

} // namespace tropilla::bench
