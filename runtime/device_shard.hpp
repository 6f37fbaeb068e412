/// One device of a runtime: its layers' weights, pages and buffers, and the actors that serve it.
#pragma once

#include "actors/compute.hpp"
#include "actors/messages.hpp"
#include "actors/supervisor.hpp"
#include "memory/commitment.hpp"
#include "runtime/runtime_hooks.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/runtime.hpp"

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// What the shards of a runtime share. Outlives them.
struct shard_context {
  std::shared_ptr<memory_arbiter> arbiter;
  caf::actor_system* system = nullptr;
  tracer* trace = nullptr;
  runtime_hooks hooks;
  std::function<void(const load_progress&)> on_progress; ///< of one shard; may be empty
  std::function<void(std::string_view)> on_notice;
  std::shared_ptr<const logs> log;
  std::shared_ptr<memory_promises> promises; ///< of the host's devices

  [[nodiscard]] logger log_of(log_component c) const { return log->of(c); }
};

class device_shard {
public:
  /// Adds the device to the arbiter and takes its leases, but for weights. Throws `error`.
  device_shard(placement_input input, std::shared_ptr<device> dev, std::shared_ptr<const weight_placement> placement,
               shard_context shared);
  /// A replica's: over the device and the weights of `original`, which is kept alive.
  device_shard(std::shared_ptr<device_shard> original, std::size_t context, shard_context shared);
  ~device_shard();

  /// Address space that the device reserves for a plan, for budgets that grow, too.
  [[nodiscard]] static std::size_t reservation(const placement_input& input, const weight_placement& placement);

  /// Spawns the pipeline and compute; weights are being read from here on. `next_shard` has the following layers and
  /// outlives this one's actors; null for the last.
  void start(const device_shard* next_shard);
  /// Spawns a supervisor, which also watches `others`: the first one, or another when the one before ended.
  void supervise(std::vector<cast::supervised_member> others,
                 std::shared_ptr<const cast::role<cast::scheduler_actor>> scheduler);

  /// The page is about to be written to for the first time: empty, or why there is no memory for it. Any thread.
  [[nodiscard]] std::optional<std::string> commit_page(page_number page);

  /// As `runtime::set_budget`.
  void set_budget(std::size_t bytes);
  [[nodiscard]] plan_report report() const;
  [[nodiscard]] std::string name() const { return std::string(dev->name()); }
  /// Counts up while weights come or something is computed. Any thread.
  [[nodiscard]] std::uint64_t progress() const { return *progress_ + meter_->bytes + dev->beats(); }

  /// Ends the supervisor; then, when nobody asks any more, compute; then the pipeline.
  void end_supervisor();
  void end_compute();
  void stop_pipeline();

  std::shared_ptr<device> dev;
  placement_input input;
  std::shared_ptr<const weight_placement> placement; ///< that it opened with
  std::shared_ptr<memory_arbiter> arbiter;
  lease kv;
  std::vector<std::byte*> pages; ///< starts, in `kv`
  std::shared_ptr<cast::current_pipeline> pipeline = std::make_shared<cast::current_pipeline>();
  std::shared_ptr<cast::role<cast::compute_actor>> compute = std::make_shared<cast::role<cast::compute_actor>>();
  std::shared_ptr<cast::role<cast::supervisor_actor>> supervisor =
      std::make_shared<cast::role<cast::supervisor_actor>>();

private:
  void add_device();
  void promise_plan();
  void take_leases();
  [[nodiscard]] cast::weight_pipeline spawn_pipeline(const std::shared_ptr<const weight_placement>& next_placement,
                                                     const std::vector<lease>& kept);
  /// Spawns who belongs to `out`, which has those that were spawned when it throws.
  void spawn_pipeline(cast::weight_pipeline& out, const std::shared_ptr<const weight_placement>& next_placement,
                      const std::vector<lease>& kept);
  void end(const cast::weight_pipeline& all) const;
  void spawn_compute(std::vector<lease> kept);
  void log_plan() const;

  std::shared_ptr<device_shard> original_;     ///< of a replica's, else null
  std::shared_ptr<committed_bytes> committed_; ///< of the reservation; null where the device commits by itself
  std::byte* base_ = nullptr;                  ///< of the reservation
  shard_context shared_;
  lease activations_, workspace_, requests_;
  std::unique_ptr<llama_workspace> space_;
  std::shared_ptr<host_copies> copies_ = std::make_shared<host_copies>();
  std::shared_ptr<transfer_meter> meter_ = std::make_shared<transfer_meter>();
  std::shared_ptr<std::atomic<std::uint64_t>> progress_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::shared_ptr<std::atomic<bool>> damage_told_ = std::make_shared<std::atomic<bool>>(false);
  const device_shard* next_shard_ = nullptr; ///< has the following layers
  std::vector<lease> kept_;                  ///< of the original, until the first pipeline is spawned
  reclaim_registration ring_reclaimer_;
  std::size_t reserved_ = 0;                                              ///< bytes of address space
  std::shared_ptr<const char> replicas_ = std::make_shared<const char>(); ///< its other owners are replicas
  std::mutex changing_;                                                   ///< one change of the budget at a time
};

} // namespace tropilla
