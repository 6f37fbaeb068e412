/// Declares what bench_throughput measures, a function each. All return the report that is printed.
#pragma once

#include "bench/throughput_client.hpp"

#include <cstdint>
#include <string>

namespace tropilla::bench {

/// The options of the command line. Zeros: what the mode needs.
struct throughput_options {
  std::size_t budget_mib = 0; ///< 0: everything stays
  std::string mode, model, packed, isa, requests, device;
  std::string record_pool; ///< file; empty: nothing is recorded
  std::size_t threads = 0, sequences = 16, context = 0, kv_tokens = 0;
  std::size_t count = 0, tokens = 0, prefix = 1024, sample = 20, prompt = 0;
  std::size_t conversations = 64, turns = 3, parallel = 8, pairs = 5;
  std::size_t kv_host_mib = 0, kv_disk_mib = 0; ///< of the store of KV pages
  std::string kv_folder, split;
  std::string phases = "1,16"; ///< streams of each phase
  std::uint64_t seed = 1;
  double rate = 0;    ///< of arrivals, per second; 0: all at once
  double seconds = 0; ///< of the soak, of a phase
};

/// Opens a runtime; what the options don't say is as given. The weights are there when it returns.
[[nodiscard]] runtime open_runtime(const throughput_options& o, std::size_t sequences, std::size_t context,
                                   std::size_t kv_tokens, std::size_t unread_pieces = 4096);

/// A thousand streams at once with keys and values for fifty: whether all end, the sampled ones have the text that they
/// have alone, and memory stays inside the plan. `failed` in the report counts what is wrong.
[[nodiscard]] json run_streams(const throughput_options& o);

/// Phases of so many streams at once, each stream followed by another when it ends; replies that a phase leaves open
/// are cancelled. Tokens per second of each phase and of all, the longest time between two tokens of a reply, moves of
/// memory, and bytes by purpose over time.
[[nodiscard]] json run_flow(const throughput_options& o);

/// Conversations that take turns, a few at a time, so that each finds its pages gone when it comes back: tokens per
/// second, the time to the first token, and what of the prompts was reused, of the first round and of the returns.
/// `ids` is a hash of all generated ids. `failed` counts devices whose peak is above their budget.
[[nodiscard]] json run_turns(const throughput_options& o);

/// A conversation that goes on with a runtime opened since, with and without pages on the disk: the time to the first
/// token of each pair. `failed` counts pairs whose texts differ.
[[nodiscard]] json run_restart(const throughput_options& o);

/// Full load for `seconds`, with cancels, clients that leave and clients that do not read, at random. `failed` counts
/// what is wrong: replies without an ending or with two, growth of memory, descriptors or threads.
[[nodiscard]] json run_soak(const throughput_options& o);

} // namespace tropilla::bench
