/// What a runtime is made of, from the file's header to the cast. Internal: shared by `runtime` and the engine actor.
#pragma once

#include "actors/messages.hpp"
#include "actors/reply_channel.hpp"
#include "actors/supervisor.hpp"
#include "src/io/weight_loader.hpp"
#include "src/model/chat_template.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/runtime.hpp"

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace tropilla {

/// A model opened as far as its header, and the bytes that running it would take.
struct prepared_model {
  gguf_file file;
  std::unique_ptr<device> dev;
  arrangement_input input;
  std::shared_ptr<const weight_arrangement> weights;
  plan_report report;

  /// Throws `error` as `runtime`'s constructor, but not over_budget.
  [[nodiscard]] static prepared_model open(const runtime_config& config);
};

/// Tokens: those that are wanted or, for 0, as many as a run has without a word. Throws `error` (invalid_argument).
[[nodiscard]] std::size_t choose_context(std::size_t wanted, const llama_config& model);

/// An arrangement for people.
[[nodiscard]] plan_report describe(const weight_arrangement& weights, const run_shape& shape, std::size_t budget);

/// What tests put in the place of the real thing.
struct runtime_hooks {
  reader_factory make_reader = make_file_reader;
  std::uint64_t refuse_acquisition = 0; ///< the n-th of the ledger's acquisitions is refused; 0: none
};

struct runtime::impl {
  /// `external` is the embedding program's system, or null for one of our own.
  impl(runtime_config c, caf::actor_system* external, runtime_hooks h = {});
  /// A replica: a cast of its own over the device, the ledger and the weights of `original`, which it keeps alive as
  /// far as memory goes. `context`: tokens, 0 for as many as the original has.
  impl(std::shared_ptr<impl> original, std::size_t context);
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
  std::shared_ptr<impl> original; ///< of a replica, else null
  std::shared_ptr<device> dev;
  arrangement_input input;
  plan_report report; ///< of the arrangement that it opened with
  model_facts facts;
  std::shared_ptr<arbiter> ledger;
  lease kv, activations, workspace;
  std::unique_ptr<llama_workspace> space;
  std::shared_ptr<const tokenizer> tok;
  std::optional<chat_template> chat;
  std::optional<error> chat_failure; ///< why there is no template: told when one is needed

  std::shared_ptr<transfer_meter> meter = std::make_shared<transfer_meter>();
  std::shared_ptr<cast::crew_on_duty> crew = std::make_shared<cast::crew_on_duty>();
  reclaim_registration ring_reclaimer; ///< of the crew's ring
  cast::compute_actor compute;
  cast::sampler_actor sampler;
  cast::scheduler_actor scheduler;
  cast::supervisor_actor supervisor;

  std::atomic<request_id> next_request = 1;
  std::atomic<bool> closed = false;

private:
  void add_device(std::size_t budget);
  void take_leases(const weight_arrangement& weights);
  void read_texts(const gguf_file& file);
  void spawn_cast(const std::shared_ptr<const weight_arrangement>& weights, const std::vector<lease>& kept,
                  const std::function<void()>& meanwhile);
  [[nodiscard]] cast::weight_crew hire(const std::shared_ptr<const weight_arrangement>& weights,
                                       const std::vector<lease>& kept);

  runtime_hooks hooks_;
  std::size_t reserved_ = 0;                                              ///< bytes of address space
  std::shared_ptr<const char> replicas_ = std::make_shared<const char>(); ///< its other owners are replicas
  std::mutex changing_;                                                   ///< one change of the budget at a time
};

/// How the engine actor opens a runtime's parts in a system that it did not make.
struct runtime_access {
  using parts = runtime::impl;
  [[nodiscard]] static std::shared_ptr<runtime::impl> open(runtime_config config, caf::actor_system& system) {
    return std::make_shared<runtime::impl>(std::move(config), &system);
  }
};

} // namespace tropilla
