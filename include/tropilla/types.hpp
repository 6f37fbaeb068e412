/// Plain data that programs exchange with a runtime: messages, options, pieces, statistics, plans and reports.
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

/// Added to a token's logit before anything else; minus infinity bans it.
struct logit_bias {
  token_id token = -1;
  float bias = 0;
};

/// How the next token is drawn from the logits: bias and bans, penalties, temperature, top-k, typical, top-p, min-p, in
/// this order. The same seed gives the same text, whatever the number of threads and whatever else is computed.
struct sampling_options {
  double temperature = 0.0; ///< 0: greedy (the arg-max; ties go to the lower id)
  std::size_t top_k = 0;    ///< keep the k most probable; 0: all
  double top_p = 1.0;       ///< keep the fewest tokens that together have this probability; 0: only the arg-max
  double min_p = 0.0;       ///< keep those with at least this share of the most probable one's probability; 0: all
  /// Keep the tokens whose surprise is closest to the expected one and that together have this probability (Meister et
  /// al., "Locally Typical Sampling", 2022); 1: all.
  double typical_p = 1.0;
  /// For tokens that the prompt or the reply has, positive logits are divided by it and negative ones multiplied by it
  /// (Keskar et al., "CTRL", 2019); 1: none.
  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0; ///< taken from a token's logit once for each time that the reply has it
  double presence_penalty = 0.0;  ///< taken from a token's logit when the reply has it
  std::size_t penalty_window = 0; ///< penalties count the last so many tokens of prompt and reply; 0: all
  std::vector<logit_bias> bias{};
  std::vector<token_id> banned{}; ///< never drawn
  std::uint64_t seed = 0;
};

struct generation_options {
  std::size_t max_tokens = 256; ///< of the reply, at least 1; it also ends where the context does
  sampling_options sampling{};
  std::vector<token_id> stop_tokens{}; ///< end the reply as the model's own do
  std::vector<std::string> stop{};     ///< text that ends the reply and is not part of it, across tokens too
  /// Each piece comes with the log-probability of its token and of the n most probable ones, at most 20; 0: none.
  std::size_t logprobs = 0;
  bool ignore_eos = false; ///< go on past the tokens that end a reply (benchmarks)
  /// Number of replies to the same prompt, which is computed once. The first is what a request for one would give; each
  /// other draws from a seed of its own.
  std::size_t outputs = 1;
  int priority = 0;            ///< among requests that wait, and when memory runs out: higher ones are served first
  double deadline_seconds = 0; ///< from submission: among equal priorities the earliest is served first; 0: none
  double timeout_seconds = 0;  ///< from submission: then the reply fails with `timed_out`; 0: none
  /// What happens at the context's end: false ends the reply; true forgets half of the tokens behind the first
  /// `context_keep`, computes the rest again in their new places, and goes on.
  bool context_shift = false;
  std::size_t context_keep = 0;
};

enum class finish_reason : std::uint8_t {
  stop,      ///< the model ended its reply
  length,    ///< max_tokens were generated
  context,   ///< the context is full
  cancelled, ///< the caller gave up
};

/// "stop", "length", "context", "cancelled".
[[nodiscard]] TROPILLA_API std::string_view to_string(finish_reason reason) noexcept;

/// A token and the logarithm of its probability, as the model gave it: before temperature, penalties and filters.
struct token_logprob {
  token_id id = -1;
  float logprob = 0;
};

/// A generated token with the text that it completes: whole UTF-8 characters, possibly none.
struct piece {
  token_id id = -1; ///< -1: the rest of the text at the end of a reply, no token of its own
  std::string text;
  std::vector<token_logprob> logprobs{}; ///< where asked for: of the token itself, then of the most probable
  std::size_t output = 0;                ///< which of the request's replies it belongs to
  std::optional<finish_reason> finish{}; ///< with the last piece of an output that came to its end: why
};

/// Time and tokens that a reply took, for all of its outputs together. Times in seconds.
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
  /// max(load, compute) / elapsed: 1 when the longer of the two never waits for the other.
  [[nodiscard]] double overlap_efficiency() const noexcept {
    const double compute = prefill_compute_seconds + compute_seconds;
    const double load = prefill_load_seconds + load_seconds;
    const double elapsed = prefill_seconds + decode_seconds;
    return elapsed > 0 ? (load > compute ? load : compute) / elapsed : 0;
  }
  /// The share of decode_seconds beyond the longer of computing and reading.
  [[nodiscard]] double decode_overhead() const noexcept {
    const double busy = load_seconds > compute_seconds ? load_seconds : compute_seconds;
    return decode_seconds > busy ? 1 - busy / decode_seconds : 0;
  }
  /// Tokens per second after the first token.
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

/// A device of a plan.
struct device_plan {
  std::string name; ///< "host:0"
  std::size_t total_bytes = 0;
  std::size_t budget_bytes = 0; ///< that was given or, where none was, the plan's total, or the limit if that is less
  /// Bytes that devices of this kind may lease together at most, by the system's figures when the plan is made; the
  /// largest number where nothing is known. For the host: its available memory, its control groups' limits, RLIMIT_AS
  /// and RLIMIT_DATA, less what is used and what the program needs besides.
  std::size_t limit_bytes = 0;
  std::string limit_set_by; ///< "the memory limit of 200.0 MiB of the control group /sys/fs/cgroup/a"; empty: unknown
};

/// A way to divide the budgets between KV pages and weights that stay. While it runs, a runtime goes from one to
/// another.
struct division_report {
  std::size_t kv_tokens = 0;      ///< that there are KV pages for, of all sequences
  std::size_t streamed_bytes = 0; ///< of weights, packed, that every step reads then
  std::size_t total_bytes = 0;    ///< of all devices
  std::size_t ring_slots = 0;     ///< that streamed groups pass through
};

/// Every byte that a runtime will hold, before anything is read.
struct plan_report {
  std::vector<plan_line> lines;
  std::size_t total_bytes = 0;
  std::size_t budget_bytes = 0;
  std::size_t context = 0;          ///< tokens of a sequence, at most
  std::size_t sequences = 0;        ///< computed together, at most
  std::size_t kv_tokens = 0;        ///< that there are KV pages for, of all sequences, when a runtime opens
  std::size_t kv_pages = 0;         ///< for them
  std::size_t max_kv_tokens = 0;    ///< that may have KV pages at once: more of them take the place of weights
  std::size_t max_kv_pages = 0;     ///< for them
  std::size_t extent_tokens = 0;    ///< KV pages for so many tokens come and go together
  std::size_t kv_page_tokens = 0;   ///< of each page
  std::string kv_type;              ///< what they hold: "f16", "bf16", "q8_0"
  std::size_t max_batch_tokens = 0; ///< of a step, of all sequences together, at most
  std::size_t weight_bytes = 0;     ///< that a decode step reads
  /// One letter for each group of weights in the order in which a step needs them (embedding, layers, output):
  /// R stays in memory, S is streamed for every step, G: the rows that a step names are looked up on disk. Where
  /// anything is streamed, the output head is cut into tiles, a letter each.
  std::string residency;
  std::size_t streamed_bytes = 0; ///< of weights, packed, that every step reads
  std::size_t ring_slots = 0;     ///< that streamed groups pass through; 0: all stay
  std::size_t slot_bytes = 0;     ///< of each: the largest streamed group
  std::size_t request_bytes = 0;  ///< for what requests hold, of the processor's memory
  /// Bytes of the processor's memory that no budget counts, roughly: code, stacks, vocabulary.
  std::size_t outside_bytes = 0;
  std::vector<device_plan> devices; ///< in the order of the layers
  /// From the one with the fewest pages to the one with the most: one for each number of streamed bytes, at most 16 of
  /// them, spread evenly. One where nothing has to be streamed for more pages; none when the plan does not fit.
  std::vector<division_report> divisions;
  std::string refusal; ///< what opening a runtime would say (over_budget); empty: the plan fits
};

/// The bytes that may be leased on a device.
struct device_budget {
  std::string name;      ///< "host:0", "cuda:0"
  std::size_t bytes = 0; ///< 0, of a device alone: what the plan needs, or its limit, if that is less
  double percent = 0;    ///< above 0 to 100, in place of bytes: of the device's limit (`device_plan::limit_bytes`)
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
  std::size_t peak_bytes = 0;           ///< the arbiter's high-water mark
  std::vector<purpose_report> purposes; ///< all of them, also those without bytes
  std::size_t waiters = 0;              ///< requests that wait for bytes
  std::size_t waiting_bytes = 0;        ///< that they want
  double fragmentation = 0; ///< share of the pool's free bytes that its largest free block can't serve, 0 to 1
};

/// A move of memory between weights that stay and KV pages.
struct memory_move_report {
  double seconds_ago = 0;
  double seconds = 0;             ///< that it took
  std::size_t kv_tokens = 0;      ///< that there are bytes for since
  std::size_t streamed_bytes = 0; ///< of weights, by every step since
  std::string reason;             ///< "16 sequences want 96 pages: ..."
};

/// The keys and values that left the devices and are kept (`runtime_config::kv_host_bytes`, `kv_disk_bytes`).
struct kv_store_report {
  std::size_t host_pages = 0; ///< in memory
  std::size_t host_bytes = 0; ///< of memory, for these and for what is on its way
  std::size_t disk_pages = 0; ///< on the disk; some are in memory, too
  std::size_t disk_bytes = 0; ///< of the model's file
  std::size_t saved = 0;      ///< pages, so far
  std::size_t restored = 0;   ///< pages, so far
  std::size_t damaged = 0;    ///< pages that the disk gave back otherwise than written, and that were dropped, so far
};

/// How busy a runtime is.
struct load_report {
  std::size_t active = 0;                  ///< sequences that are computed together
  std::size_t waiting = 0;                 ///< sequences that have no pages yet
  std::size_t pages_in_use = 0;            ///< KV pages
  std::size_t pages_cached = 0;            ///< KV pages of no sequence, which prompts that begin alike use again
  std::size_t preemptions = 0;             ///< how often a sequence gave up its pages to another, so far
  std::size_t restarts = 0;                ///< how often a member of the cast was replaced, so far
  std::size_t page_limit = 0;              ///< KV pages that there are bytes for at this moment
  std::vector<memory_move_report> moves{}; ///< of memory, the newest first, the last sixteen
  kv_store_report store{};
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
