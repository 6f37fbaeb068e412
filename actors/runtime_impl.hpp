/// What a runtime is made of, from the file's header to the cast. Internal: shared by `runtime` and the engine actor.
#pragma once

#include "actors/messages.hpp"
#include "actors/reply_channel.hpp"
#include "src/io/weight_loader.hpp"
#include "src/model/chat_template.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/runtime.hpp"

#include <atomic>
#include <memory>
#include <optional>
#include <string>

namespace tropilla {

/// A model opened as far as its header, and the bytes that running it would take.
struct prepared_model {
  gguf_file file;
  llama_layout layout;
  std::unique_ptr<device> dev;
  run_shape shape;
  loader_shape loading;
  memory_plan plan;
  plan_report report;

  /// Throws `error` as `runtime`'s constructor, but not over_budget.
  [[nodiscard]] static prepared_model open(const runtime_config& config);
};

struct runtime::impl {
  /// `external` is the embedding program's system, or null for one of our own.
  impl(runtime_config c, caf::actor_system* external);
  ~impl();

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
  [[nodiscard]] request_id submit(std::vector<token_id> prompt, const generation_options& options, bool score,
                                  std::shared_ptr<reply_sink> sink);
  void cancel(request_id id) noexcept { cast::tell_from_outside(scheduler, cast::cancel_request{id}); }

  runtime_config config;
  std::optional<cast::system> own_system;
  caf::actor_system* system = nullptr;
  std::unique_ptr<tracer> trace;

  // The order of these is the order of construction; the cast is gone before any of them.
  std::unique_ptr<device> dev;
  llama_layout layout;
  run_shape shape;
  plan_report report;
  model_facts facts;
  std::shared_ptr<arbiter> ledger;
  lease kv, activations, workspace;
  std::unique_ptr<llama_workspace> space;
  std::unique_ptr<tokenizer> tok;
  std::optional<chat_template> chat;
  std::optional<error> chat_failure; ///< why there is no template: told when one is needed

  cast::memory_manager_actor memory_manager;
  cast::loader_actor loader;
  cast::prefetcher_actor prefetcher;
  cast::compute_actor compute;
  cast::sampler_actor sampler;
  cast::scheduler_actor scheduler;
  cast::supervisor_actor supervisor;

  std::atomic<request_id> next_request = 1;
  std::atomic<bool> closed = false;

private:
  void take_leases(const memory_plan& plan);
  void spawn_cast(const prepared_model& prepared, lease staging);
};

/// How the engine actor opens a runtime's parts in a system that it did not make.
struct runtime_access {
  using parts = runtime::impl;
  [[nodiscard]] static std::shared_ptr<runtime::impl> open(runtime_config config, caf::actor_system& system) {
    return std::make_shared<runtime::impl>(std::move(config), &system);
  }
};

} // namespace tropilla
