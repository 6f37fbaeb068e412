/// Opens a model inside a byte budget and generates text from it.
///
///     tropilla::runtime rt({.model = "model.gguf"});
///     for (const auto& piece : rt.chat({{"user", "Why is the sky blue?"}}))
///       std::cout << piece.text << std::flush;
///
/// A runtime owns its threads, memory and actors, and gives all of them back when it is destroyed. It has no globals,
/// no signal handlers and no output of its own; what it does goes to `runtime_config::log` where that has a sink.
/// Errors are `tropilla::error`.
#pragma once

#include "tropilla/log.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

struct runtime_impl; ///< internal

/// Tokens of a context that a runtime has without a word, unless the model takes fewer.
inline constexpr std::size_t default_context = 4096;
/// The most sequences that a runtime computes together.
inline constexpr std::size_t max_sequences = 1024;

struct runtime_config {
  std::filesystem::path model{}; ///< a GGUF file; any part of a split one
  std::size_t threads = 0;       ///< of each device; 0: the cores that this process may use, divided between them
  std::size_t context = 0;       ///< tokens; 0: the model's, at most `default_context`
  std::string kv_type{};         ///< how keys and values are stored: "f16", "bf16", "q8_0"; "": f16
  /// Layers that don't fit are streamed for every step. 0: the plan's total, or, if that is less, what the process may
  /// use (`device_plan::limit_bytes`). One above that limit is obeyed, with a notice.
  std::size_t budget_bytes = 0;
  double budget_percent = 0; ///< above 0 to 100, in place of `budget_bytes`: of what the process may use
  /// Several devices ("host:0", "host:1", ...), each with a budget and a team of threads of its own, between which the
  /// model is divided in proportion to the budgets. "{}": as many of the host as `split` says, with equal shares of the
  /// budget.
  std::vector<device_budget> devices{};
  /// How devices divide the model. "pipeline=2": each has some of the layers. "tensor=2": each has a share of every
  /// matrix, and all compute every layer at the same time (devices of the host, no replicas). "pipeline=2,tensor=2":
  /// both. "": a pipeline of all `devices`. The text is the same to the last bit.
  std::string split{};
  /// Budgets of devices of the host go down while the machine, or the process's control group, is short of memory, and
  /// up again afterwards to what they were, or to what `runtime::set_budget` made them since.
  bool yield_memory = false;
  /// Page-locked bytes of the processor's memory, for all GPUs together: weights that GPUs stream stay there, are read
  /// once, and are copied for every step.
  std::size_t pinned_bytes = 0;
  bool precise = false;        ///< activations stay float32: slower, for comparisons
  std::string isa{};           ///< "": the best that the machine has; "scalar", "avx2", "avx512"
  std::string chat_template{}; ///< "": the model's own; "llama3", "chatml"
  /// Tokens of a step, of all sequences together, at most. 0: 512, on GPUs 2048 where the budget has room.
  std::size_t max_batch_tokens = 0;
  std::size_t logit_rows = 1; ///< rows per step that may ask for logits: `score` is faster with more
  std::size_t sequences = 16; ///< replies that are computed together, at most; others wait in a queue
  /// Tokens that may have KV pages at once, of all sequences together, at least `context`. 0: four contexts (as many as
  /// there are sequences, if those are fewer), or as many of them as a budget has room for. Where a budget does not
  /// hold their pages beside all weights, the weights make room while the pages are used.
  std::size_t kv_tokens = 0;
  /// Bytes of the processor's memory, besides the budgets, for keys and values that leave a device: they are read back
  /// instead of computed again. Page-locked where there are GPUs. 0: none.
  std::size_t kv_host_bytes = 0;
  /// Bytes on the disk for the same, of all files for keys and values in `kv_folder`: they are found after a restart.
  /// 0: none. One process at a time has a model's file; another goes on without, with a notice.
  std::size_t kv_disk_bytes = 0;
  std::filesystem::path kv_folder{}; ///< needed where `kv_disk_bytes` are given
  std::size_t queue_length = 4096;   ///< requests that may wait; more are refused with `busy`
  /// Bytes of the processor's memory that are planned for requests: prompts, those of requests that wait included, and
  /// the state of replies. A request that needs more takes it from what the budget has left, or is refused. Less than
  /// 16 bytes for each token of the contexts of up to sixteen sequences, and 256 KiB (4 MiB where there are several),
  /// is made that.
  std::size_t request_bytes = 0;
  std::size_t unread_pieces = 4096; ///< of a reply that its client does not read: then it is ended
  /// Folder of packed weights, made where needed: the next start maps or reads what one start packed. "": none.
  std::filesystem::path packed_cache{};
  std::string io{}; ///< how weights are read: "mmap", "direct" (O_DIRECT), "buffered"; "": as suits the plan
  std::filesystem::path trace{}; ///< write a Chrome/Perfetto trace here when the runtime closes
  /// Called on a thread of the runtime while weights load; must be quick. What it throws is dropped.
  std::function<void(const load_progress&)> on_progress{};
  /// Called with a sentence when the runtime does something otherwise than asked for, or than the file says: the disk
  /// has no room for packed weights, the vocabulary names tokens that it does not have. On any thread, those of the
  /// caller included. Must be quick. What it throws is dropped.
  std::function<void(std::string_view)> on_notice{};
  /// The log of the runtime's work, notices included. Without a sink nothing is logged, at no cost.
  log_options log{};
};

/// A reply as it comes: an input range of pieces. Movable. Leaving the range or destroying it cancels what is left.
class TROPILLA_API generation {
public:
  class iterator;

  generation(generation&&) noexcept;
  generation& operator=(generation&&) noexcept;
  ~generation();

  /// Waits for the first piece. Advancing waits for the next one. Throws `error` when the reply failed.
  [[nodiscard]] iterator begin();
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

  /// The next piece, or empty at the end. The range is made of these calls.
  [[nodiscard]] std::optional<piece> next();
  /// Stops the reply; pieces that are already there may still come. Any thread (a signal's watcher).
  void cancel() noexcept;
  /// Complete once the range ended.
  [[nodiscard]] const generation_statistics& statistics() const noexcept;

private:
  friend class runtime;
  struct impl;
  explicit generation(std::shared_ptr<impl> i);
  std::shared_ptr<impl> impl_;
};

class generation::iterator {
public:
  using value_type = piece;
  using difference_type = std::ptrdiff_t;

  iterator() = default;
  [[nodiscard]] const piece& operator*() const noexcept { return *current_; }
  [[nodiscard]] const piece* operator->() const noexcept { return &*current_; }
  iterator& operator++() {
    current_ = owner_->next();
    return *this;
  }
  void operator++(int) { ++*this; }
  friend bool operator==(const iterator& it, std::default_sentinel_t) noexcept { return !it.current_; }

private:
  friend class generation;
  explicit iterator(generation* owner) : owner_(owner), current_(owner->next()) {}
  generation* owner_ = nullptr;
  std::optional<piece> current_;
};

/// Callbacks for one reply, called one after the other on a thread that the runtime has for its clients. One that takes
/// long, or waits, holds up its own reply only: while it does, up to `runtime_config::unread_pieces` of that reply are
/// kept, and other clients are called on other threads (at most 64). Closing the runtime waits until they return: none
/// of them may close it.
struct reply_callbacks {
  /// False ends the reply, as `reply_ticket::cancel` does. An exception ends it with `on_failed` (errc::client_failed);
  /// the other replies go on.
  std::function<bool(piece)> on_piece;
  /// One of these two is called once, after the last piece. A cancelled reply is a finished one, whose `finish` is
  /// `cancelled`, whichever way it was cancelled. Exceptions from them are dropped: the reply is over.
  std::function<void(const generation_statistics&)> on_finished;
  std::function<void(const error&)> on_failed;
  /// Promises that the callbacks return within microseconds and never wait: the runtime then calls them on its own
  /// threads, without a change of threads. If the promise does not hold, all replies wait for them.
  bool quick = false;
};

/// A reply that callbacks receive. Copyable; letting it go changes nothing.
class TROPILLA_API reply_ticket {
public:
  /// Ends the reply; `on_finished` still comes, unless the reply had ended. Any thread.
  void cancel() const noexcept;

private:
  friend class runtime;
  struct impl;
  explicit reply_ticket(std::shared_ptr<impl> i) : impl_(std::move(i)) {}
  std::shared_ptr<impl> impl_;
};

/// An open model with its memory, threads and actors. Any thread may call any member function.
class TROPILLA_API runtime {
public:
  /// Reads the header, plans, and starts loading; returns before the weights are there (`wait_until_loaded`).
  /// Throws `error`: io_error, malformed_file, unsupported, over_budget, invalid_argument.
  explicit runtime(runtime_config config);
  ~runtime();
  runtime(runtime&&) noexcept;
  runtime& operator=(runtime&&) noexcept;

  /// Plans the bytes that the runtime would hold, without reading weights. Throws as the constructor, but not
  /// over_budget. Notices go to `runtime_config::on_notice`.
  [[nodiscard]] static plan_report plan(const runtime_config& config);

  /// Generates from token ids, as they are. Throws `error`: context_full when the prompt does not fit,
  /// invalid_argument for ids out of range, an empty prompt or impossible options, busy when others hold the memory for
  /// requests, over_budget when there never is so much.
  [[nodiscard]] generation generate(std::vector<token_id> prompt, const generation_options& options = {});
  /// Generates from raw text, with the model's BOS where it wants one; special tokens are recognised only when
  /// `special`.
  [[nodiscard]] generation generate(std::string_view prompt, const generation_options& options = {},
                                    bool special = false);
  /// The assistant's answer to a conversation, through the chat template.
  [[nodiscard]] generation chat(std::span<const chat_message> messages, const generation_options& options = {});
  [[nodiscard]] generation chat(std::initializer_list<chat_message> messages, const generation_options& options = {});

  /// Generates without a thread that waits: the reply goes to callbacks. Throws as `generate`, and `busy` when the
  /// queue is full.
  reply_ticket submit(std::vector<token_id> prompt, const generation_options& options, reply_callbacks callbacks);
  /// Ids of a conversation through the chat template, for `generate` and `submit`. Throws `error`: context_full for one
  /// so long that its tokens need not be counted.
  [[nodiscard]] std::vector<token_id> encode(std::span<const chat_message> messages) const;
  /// Ids of raw text as `generate` makes them: with the model's BOS where it wants one. Throws likewise.
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, bool special = false) const;

  /// Logits at every position of `ids`, in order: `row(position, logits)` on the calling thread; the span is valid
  /// during the call. Throws as `generate`.
  void score(std::span<const token_id> ids, const std::function<void(std::size_t, std::span<const float>)>& row);

  /// Converts text to ids and back. `bos` begins with the model's BOS, `special` recognises special tokens.
  [[nodiscard]] std::vector<token_id> tokenize(std::string_view text, bool bos = false, bool special = false) const;
  [[nodiscard]] std::string detokenize(std::span<const token_id> ids, bool special = false) const;

  /// Blocks until all weights that stay are in memory. Throws `error` when loading failed.
  void wait_until_loaded();

  [[nodiscard]] const model_facts& model() const noexcept;
  [[nodiscard]] const plan_report& plan() const noexcept;
  [[nodiscard]] std::vector<memory_report> memory() const;
  [[nodiscard]] load_report load() const;
  /// Gives a device another budget ("" is the only device), in the middle of replies, too: it counts from the next step
  /// on, and as many groups of weights stay as it has room for. Blocks until then. Throws `error`, and nothing changes:
  /// over_budget when the budget is smaller than the smallest that works, invalid_argument for an unknown device, for a
  /// budget beyond the addresses that were reserved (a quarter more than everything needs), and when this runtime is a
  /// replica or has replicas.
  void set_budget(std::size_t bytes, std::string_view device = {});
  /// Writes the keys and values of the beginning of `ids` to a file, as far as they are in memory, and returns how many
  /// tokens that is; a runtime that loads the file goes on behind them at once. `note` is bytes of the program's, which
  /// come back with it. The file takes the place of another one when it is complete, and only its owner may read it.
  /// Replies go on meanwhile. Throws `error`: io_error, invalid_argument for ids out of range, device_failed.
  std::size_t save_session(const std::filesystem::path& path, std::span<const token_id> ids,
                           std::string_view note = {});
  /// Restores a session: prompts that begin with the tokens that it returns find their keys and values, as long as
  /// their pages are not wanted for others. Throws `error`, and nothing changes: io_error; malformed_file for a file
  /// that is damaged or none of these; unsupported for one of another version; invalid_argument when it was saved with
  /// another model, `kv_type` or `precise`; context_full when it is longer than the context, busy when replies leave
  /// too few pages; device_failed.
  std::vector<token_id> load_session(const std::filesystem::path& path, std::string* note = nullptr);
  /// Opens another runtime over the same device, arbiter and weights: it computes in turn with this one and adds its
  /// own KV pages for `context` tokens (0: as many as this one has), buffers and, where groups are streamed, a ring,
  /// inside the same budget, but not a byte of weights that stay. Waits until they are loaded. The two may be closed in
  /// any order. Throws `error`: over_budget when the budget has no room for what it adds, invalid_argument for the
  /// context.
  [[nodiscard]] runtime replicate(std::size_t context = 0) const;
  [[nodiscard]] std::size_t threads() const noexcept;
  [[nodiscard]] std::string_view isa() const noexcept;

private:
  friend class generation;
  friend class reply_ticket;
  explicit runtime(std::shared_ptr<runtime_impl> i) noexcept : impl_(std::move(i)) {}
  std::shared_ptr<runtime_impl> impl_;
};

} // namespace tropilla
