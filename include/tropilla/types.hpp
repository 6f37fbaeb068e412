/// The plain data that programs exchange with a runtime.
#pragma once

#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

using token_id = std::int32_t;

/// One turn of a conversation.
struct chat_message {
  std::string role; ///< "system", "user" or "assistant"
  std::string content;
};

/// How the next token is drawn from the logits. The same seed gives the same text, whatever the number of threads.
struct sampling_options {
  double temperature = 0.0; ///< 0: greedy (the arg-max; ties go to the lower id)
  std::size_t top_k = 0;    ///< keep the k likeliest; 0: all
  double top_p = 1.0;       ///< keep the likeliest that together have this probability
  std::uint64_t seed = 0;
};

struct generation_options {
  std::size_t max_tokens = 256; ///< of the reply; it also ends where the context does
  sampling_options sampling{};
  bool ignore_eos = false; ///< go on past the tokens that end a reply (benchmarks)
};

enum class finish_reason : std::uint8_t {
  stop,      ///< the model ended its reply
  length,    ///< max_tokens were generated
  context,   ///< the context is full
  cancelled, ///< the caller gave up
};

/// "stop", "length", "context", "cancelled".
[[nodiscard]] std::string_view to_string(finish_reason reason) noexcept;

/// A generated token with the text that it completes: whole UTF-8 characters, possibly none.
struct piece {
  token_id id = -1; ///< -1: the rest of the text at the end of a reply, no token of its own
  std::string text;
};

/// What a reply cost. Times in seconds.
struct generation_statistics {
  std::size_t prompt_tokens = 0;
  std::size_t reused_tokens = 0; ///< of the prompt, whose KV was still there
  std::size_t generated_tokens = 0;
  double prefill_seconds = 0;         ///< of the prompt's tokens that were not reused, weights' loading included
  double decode_seconds = 0;          ///< from the first token to the last
  double first_token_seconds = 0;     ///< from submission
  double compute_seconds = 0;         ///< of decode_seconds, how long the device computed
  double load_seconds = 0;            ///< of decode_seconds, how long weights were being read
  double prefill_compute_seconds = 0; ///< the same of prefill_seconds
  double prefill_load_seconds = 0;
  finish_reason finish = finish_reason::stop;

  [[nodiscard]] double prefill_rate() const noexcept {
    return prefill_seconds > 0 ? static_cast<double>(prompt_tokens - reused_tokens) / prefill_seconds : 0;
  }
  /// max(load, compute) / elapsed: 1 when whichever takes longer never waits for the other.
  [[nodiscard]] double overlap_efficiency() const noexcept {
    const double compute = prefill_compute_seconds + compute_seconds;
    const double load = prefill_load_seconds + load_seconds;
    const double elapsed = prefill_seconds + decode_seconds;
    return elapsed > 0 ? (load > compute ? load : compute) / elapsed : 0;
  }
  /// The share of decode_seconds in which neither was computed nor, if that takes longer, read.
  [[nodiscard]] double decode_overhead() const noexcept {
    const double busy = load_seconds > compute_seconds ? load_seconds : compute_seconds;
    return decode_seconds > busy ? 1 - busy / decode_seconds : 0;
  }
  /// Tokens per second after the first.
  [[nodiscard]] double decode_rate() const noexcept {
    return decode_seconds > 0 && generated_tokens > 1 ? static_cast<double>(generated_tokens - 1) / decode_seconds : 0;
  }
};

/// One line of a memory plan.
struct plan_line {
  std::string device;  ///< "host:0"
  std::string purpose; ///< "weights", "KV pages", ...
  std::string name;    ///< "layer 12"
  std::size_t bytes = 0;
};

/// Every byte that a runtime will hold, before anything is read.
struct plan_report {
  std::vector<plan_line> lines;
  std::size_t total_bytes = 0;
  std::size_t budget_bytes = 0;
  std::size_t context = 0;        ///< tokens that have KV pages
  std::size_t kv_pages = 0;       ///< for them
  std::size_t kv_page_tokens = 0; ///< of each page
  std::string kv_type;            ///< what they hold: "f16", "bf16", "q8_0"
  std::size_t prefill_rows = 0;   ///< most tokens of a prompt that one step computes
  std::size_t weight_bytes = 0;   ///< that a decode step reads
  /// One letter for each group of weights in the order in which a step needs them (embedding, layers, output):
  /// R stays in memory, S is streamed for every step, G: the rows that a step names are gathered from the file. Where
  /// anything is streamed, the output head is cut into tiles, a letter each.
  std::string residency;
  std::size_t streamed_bytes = 0; ///< of weights, packed, that every step reads
  std::size_t ring_slots = 0;     ///< that streamed groups pass through; 0: all stay
  std::size_t slot_bytes = 0;     ///< of each: the largest streamed group
};

/// What may be leased on a device.
struct device_budget {
  std::string name; ///< "host:0"
  std::size_t bytes = 0;
};

/// A device's bytes for one purpose at one moment.
struct purpose_report {
  std::string purpose; ///< "weights", "KV pages", ...
  std::size_t in_use_bytes = 0;
  std::size_t peak_bytes = 0;
};

/// A device's bytes at one moment.
struct memory_report {
  std::string device;
  std::size_t budget_bytes = 0;
  std::size_t in_use_bytes = 0;
  std::size_t peak_bytes = 0;           ///< the ledger's high-water mark
  std::vector<purpose_report> purposes; ///< all of them, also those without bytes
  std::size_t waiters = 0;              ///< requests that wait for bytes
  std::size_t waiting_bytes = 0;        ///< that they want
  double fragmentation = 0; ///< share of the pool's free bytes that its largest free block can't serve, 0 to 1
};

/// How far the weights have come. Bytes as stored in the file.
struct load_progress {
  std::size_t bytes_done = 0;
  std::size_t bytes_total = 0;
};

/// The facts of an open model.
struct model_facts {
  std::string name;
  std::string type; ///< of most weights: "Q4_1"
  std::size_t parameters = 0;
  std::size_t layers = 0;
  std::size_t vocabulary = 0;
  std::size_t trained_context = 0;
  std::size_t file_bytes = 0;
};

} // namespace tropilla
