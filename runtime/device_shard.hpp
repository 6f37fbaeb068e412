/// One device of a runtime: its layers' weights, pages and buffers, and the actors that serve it.
#pragma once

#include "actors/compute.hpp"
#include "actors/messages.hpp"
#include "actors/scheduler.hpp"
#include "actors/supervisor.hpp"
#include "memory/commitment.hpp"
#include "runtime/runtime_hooks.hpp"
#include "src/log/log.hpp"
#include "src/trace/trace.hpp"
#include "tropilla/runtime.hpp"

#include <map>
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

/// KV pages that runtimes over the same device may still ask for: no other may take their bytes. Any thread.
class kv_pledges {
public:
  /// Pledges bytes to an owner, in place of what it had.
  void set(const void* owner, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_[owner] = bytes;
  }
  void end(const void* owner) noexcept {
    const std::lock_guard lock(mutex_);
    bytes_.erase(owner);
  }
  [[nodiscard]] std::size_t total() const {
    const std::lock_guard lock(mutex_);
    std::size_t sum = 0;
    for (const auto& [owner, bytes] : bytes_)
      sum += bytes;
    return sum;
  }

private:
  mutable std::mutex mutex_;
  std::map<const void*, std::size_t> bytes_;
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

  /// Whom a shard works with. All of them outlive its actors.
  struct neighbours {
    std::size_t number = 0;                ///< of the shard: pages lie in the table's list of this number
    const device_shard* next{};            ///< gets the step from this one; null: no other does
    std::shared_ptr<device_group> group{}; ///< of the first of those that share layers; else null
    std::vector<std::shared_ptr<const cast::role<cast::compute_actor>>> others{}; ///< its computes, but its own
  };
  /// Spawns the pipeline and compute; weights are being read from here on.
  void start(neighbours with);
  /// Spawns a supervisor, which also watches `others`: the first one, or another when the one before ended.
  void supervise(std::vector<cast::supervised_member> others,
                 std::shared_ptr<const cast::role<cast::scheduler_actor>> scheduler);

  /// KV pages are about to be written to: empty, or why there is no memory for them. Any thread.
  [[nodiscard]] std::optional<std::string> commit_pages(const lease& extent);
  /// So many KV pages may be asked for from now on. Any thread.
  void pledge_pages(std::size_t pages) { pledges_->set(this, pages * page_bytes()); }
  /// Bytes of the budget that are neither leased nor pledged. Any thread.
  [[nodiscard]] std::size_t unpledged_bytes() const;
  /// From one KV page to the next, in bytes.
  [[nodiscard]] std::size_t page_bytes() const;
  /// Whether the first writer of a lease has to ask for its memory with `commit_pages`.
  [[nodiscard]] bool commits_later() const noexcept { return committed_ != nullptr; }

  /// Weights stay as they are while somebody has it.
  [[nodiscard]] std::shared_ptr<const void> keep_placement() const { return replicas_; }
  /// Runtimes that use the weights, besides the first one.
  [[nodiscard]] std::size_t replicas() const noexcept { return static_cast<std::size_t>(replicas_.use_count() - 1); }
  /// Throws `error` (invalid_argument), as `runtime::set_budget`, where the budget can't be this one whatever fits.
  void check_budget(std::size_t bytes) const;
  [[nodiscard]] plan_report report() const;
  [[nodiscard]] std::string name() const { return std::string(dev->name()); }
  /// Its reads so far.
  [[nodiscard]] cast::read_totals read() const { return {meter_->bytes, static_cast<double>(meter_->busy_ns) * 1e-9}; }
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
  std::shared_ptr<cast::current_pipeline> pipeline = std::make_shared<cast::current_pipeline>();
  std::shared_ptr<cast::role<cast::compute_actor>> compute = std::make_shared<cast::role<cast::compute_actor>>();
  std::shared_ptr<cast::role<cast::supervisor_actor>> supervisor =
      std::make_shared<cast::role<cast::supervisor_actor>>();

private:
  void add_device();
  /// Throws `error` (over_budget) where a replica's plan has no room beside all others, with the pages that they may
  /// still ask for.
  void require_room() const;
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
  std::shared_ptr<void> memory_record_; ///< of its grants and returns; null without a trace
  lease activations_, workspace_, requests_;
  std::unique_ptr<llama_workspace> space_;
  std::shared_ptr<host_copies> copies_ = std::make_shared<host_copies>();
  std::shared_ptr<transfer_meter> meter_ = std::make_shared<transfer_meter>();
  std::shared_ptr<std::atomic<std::uint64_t>> progress_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  std::shared_ptr<std::atomic<bool>> damage_told_ = std::make_shared<std::atomic<bool>>(false);
  neighbours with_;
  std::vector<lease> kept_; ///< of the original, until the first pipeline is spawned
  reclaim_registration ring_reclaimer_;
  std::size_t reserved_ = 0;                                              ///< bytes of address space
  std::shared_ptr<const char> replicas_ = std::make_shared<const char>(); ///< its other owners are replicas
  std::shared_ptr<kv_pledges> pledges_ = std::make_shared<kv_pledges>();
};

} // namespace tropilla
