/// All that a runtime owns: log, arbiter, shards, tokenizer, batcher, and the cast's roles. Internal: behind `runtime`
/// and the engine actor.
#pragma once

#include "actors/messages.hpp"
#include "runtime/callback_threads.hpp"
#include "runtime/device_shard.hpp"
#include "runtime/memory_yielder.hpp"
#include "runtime/page_mover.hpp"
#include "runtime/prepared_model.hpp"
#include "runtime/reply_channel.hpp"
#include "src/io/session_file.hpp"
#include "src/io/weight_loader.hpp"
#include "src/log/log.hpp"
#include "src/model/chat_template.hpp"
#include "src/schedule/request_room.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/runtime.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace tropilla {

/// What turns text into ids.
struct model_texts {
  std::shared_ptr<const tokenizer> tok;
  std::optional<chat_template> chat;
  std::optional<error> chat_failure; ///< why there is no template: told when one is needed

  /// Throws `error` (malformed_file, unsupported) for the vocabulary, and for a template that was asked for by name.
  [[nodiscard]] static model_texts read(const gguf_file& file, const std::string& template_name);
};

struct TROPILLA_HIDDEN runtime_impl {
  /// `external` is the embedding program's system, or null for one of our own.
  runtime_impl(runtime_config c, caf::actor_system* external, runtime_hooks h = {});
  /// A replica: a cast of its own over the device, the arbiter and the weights of `original`, which it keeps alive as
  /// far as memory goes. `context`: tokens, 0 for as many as the original has.
  runtime_impl(std::shared_ptr<runtime_impl> original, std::size_t context);
  ~runtime_impl();

  /// Ends the cast, gives all leases back and writes the trace; what is running fails with cancelled. Idempotent.
  void shut_down() noexcept;

  /// A request under a new id.
  [[nodiscard]] sequence_request make_request(std::vector<token_id> prompt, const generation_options& options,
                                              bool score, std::shared_ptr<reply_sink> sink);
  /// Ids of a prompt: a conversation through the chat template, raw text with the model's BOS where it wants one.
  [[nodiscard]] std::vector<token_id> encode(std::span<const chat_message> messages) const;
  [[nodiscard]] std::vector<token_id> encode(std::string_view text, bool special) const;
  [[nodiscard]] std::vector<memory_report> memory() const;
  void set_budget(std::size_t bytes, std::string_view name);

  /// Hands a request to the scheduler and waits until it is accepted. Throws as `runtime::generate`.
  [[nodiscard]] request_id submit(sequence_request request);
  [[nodiscard]] load_report load() const;
  /// As `runtime::save_session` and `runtime::load_session`.
  [[nodiscard]] std::size_t save_session(const std::filesystem::path& path, std::span<const token_id> ids,
                                         std::string_view note);
  [[nodiscard]] std::vector<token_id> load_session(const std::filesystem::path& path, std::string* note);
  /// The pages of all layers, as they leave the runtime.
  [[nodiscard]] session_shape page_shape() const;
  void cancel(request_id id) noexcept { cast::tell_from_outside(scheduler->get(), cast::cancel_request{id}); }

  runtime_config config;
  std::shared_ptr<const logs> log; ///< a replica's is its original's
  std::optional<cast::system> own_system;
  caf::actor_system* system = nullptr;
  std::unique_ptr<tracer> trace;

  // The order of these is the order of construction; the cast is gone before any of them.
  std::shared_ptr<runtime_impl> original; ///< of a replica, else null
  plan_report report;                     ///< of the placements that it opened with
  model_facts facts;
  std::size_t vocabulary = 0;
  device_split split;
  std::shared_ptr<memory_arbiter> arbiter;
  std::shared_ptr<memory_promises> promises;
  std::vector<std::shared_ptr<device_shard>> shards; ///< one stage after another, those of a stage by rank
  std::shared_ptr<const tokenizer> tok;
  std::optional<chat_template> chat;
  std::optional<error> chat_failure; ///< why there is no template: told when one is needed

  std::shared_ptr<request_room> room; ///< for what requests hold
  std::shared_ptr<batcher> batching;
  std::shared_ptr<memory_flow> flow; ///< of an original
  std::shared_ptr<kv_store> store;   ///< for pages that leave; null where none is asked for, and in a replica
  std::unique_ptr<page_mover> mover; ///< as long as there is a store and the runtime is open
  std::shared_ptr<cast::role<cast::sampler_actor>> sampler = std::make_shared<cast::role<cast::sampler_actor>>();
  std::shared_ptr<cast::role<cast::scheduler_actor>> scheduler = std::make_shared<cast::role<cast::scheduler_actor>>();

  callback_threads client_threads; ///< outlives the scheduler, which posts to it
  std::atomic<request_id> next_request = 1;
  std::atomic<bool> closed = false;

private:
  void log_opening() const;
  /// Throws `error` (context_full).
  void require_may_fit(std::size_t bytes, std::size_t min_tokens) const;
  void log_closing() const;
  void read_texts(const gguf_file& file);
  void notify(std::span<const std::string> sentences) const;
  /// What the shard of this number gets.
  [[nodiscard]] shard_context shard_context_of(std::size_t shard);
  /// Starts the shards, from the last to the first, and then the actors that need them; `meanwhile` runs while weights
  /// are read.
  void spawn_cast(const std::function<void()>& meanwhile);
  void start_shards();
  void make_request_room();
  void make_store();
  void begin_to_yield();
  /// Waits until another budget of a shard counts.
  void change_budget(std::size_t shard, std::size_t bytes);
  void make_batcher();
  void spawn_sampler();
  void spawn_scheduler();
  /// Spawns a supervisor for a shard, the first one or a successor of the one that ended, unless that has one; the
  /// first shard's watches sampler and scheduler, too. False: the runtime is closed.
  bool supervise(std::size_t shard, const caf::actor_addr& ended);

  /// Given back first when it closes: what ends actors and fails requests takes a little memory.
  std::unique_ptr<std::byte[]> reserve_ = std::make_unique<std::byte[]>(std::size_t{64} << 10);
  runtime_hooks hooks_;
  std::shared_ptr<memory_balance> balance_; ///< of an original
  std::chrono::steady_clock::time_point opened_ = std::chrono::steady_clock::now();
  mutable std::once_flag told_of_template_, told_of_bos_;
  class last_resort;
  std::shared_ptr<last_resort> last_resort_;
  std::unique_ptr<memory_yielder> yielder_; ///< null: budgets follow no pressure
  std::mutex progress_mutex_;
  std::vector<load_progress> progress_; ///< by shard
};

} // namespace tropilla
