/// A device's jobs for the weight groups of a step, and copies of their results.
#pragma once

#include "kernels/collective.hpp"
#include "kernels/device.hpp"
#include "memory/lease.hpp"
#include "src/model/llama.hpp"
#include "src/placement/placement.hpp"
#include "src/schedule/step_runner.hpp"
#include "src/trace/trace.hpp"

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tropilla {

/// Copies of what a device without host-visible memory computed, for the processor; made when first wanted. They
/// may be read when the actor that wrote them has ended.
struct host_copies {
  std::shared_ptr<std::byte> logits, top_k, hidden;
};

/// What the jobs of a device work with. All of it outlives them.
struct step_jobs_setup {
  const llama_workspace* space = nullptr;
  device* dev = nullptr;
  std::size_t number = 0; ///< of the device, in the order of the layers
  std::shared_ptr<host_copies> copies;
  tracer* trace = nullptr;
  const device* next_device = nullptr; ///< that has the layers behind these; null: it hands on no step
};

/// One thread, an actor's, calls the functions; jobs run on the device's stream, and may outlive this.
class step_jobs {
public:
  explicit step_jobs(step_jobs_setup setup);

  // -- weights ----

  /// Begins with a placement and those of its groups that are there. Returns what the runner is to know of it.
  [[nodiscard]] step_groups follow(std::shared_ptr<const weight_placement> placement, const std::vector<lease>& kept);
  [[nodiscard]] const std::shared_ptr<const weight_placement>& placement() const noexcept {
    return weights_->placement;
  }
  void take(std::size_t group, const lease& memory);
  void drop(std::size_t group);
  /// Leases of the groups that stay, by index.
  [[nodiscard]] std::vector<lease> resident() const;
  /// Lets go of all groups, and returns the leases of those that stay in `next_placement`, too.
  [[nodiscard]] std::vector<lease> leave_for(const weight_placement& next_placement);
  /// True where weights that are mapped may have changed under a job.
  [[nodiscard]] bool lost() const { return watches_mapping_ && weights_->placement->mapping->lost(); }

  // -- steps ----

  /// A step begins: binds it to the device's pages. `group`: this device's end of the group that computes it; null: it
  /// has no other shares.
  void begin(const step& next_step, const hidden_input& from, std::shared_ptr<communicator> group = {});
  /// The group of the step, if there is one, fails.
  void fail_group(const error& why) const noexcept {
    if (group_)
      group_->abort(why);
  }
  /// Why the group can't compute the step; empty: nothing is wrong.
  [[nodiscard]] std::optional<error> group_failure() const { return group_ ? group_->failure() : std::nullopt; }
  [[nodiscard]] const step& current() const noexcept { return *current_; }
  void end() noexcept;
  /// Where the hidden states of the step's tokens are, [ids, width]; a lookup writes the embedding's rows there.
  [[nodiscard]] float* hidden() const { return setup_.space->floats(buffer::hidden); }
  [[nodiscard]] std::shared_ptr<const step> shared_step() const noexcept { return current_; }

  /// Enqueues groups [first, last) of the step; `done` gets the seconds that they took, on the stream's thread. Throws
  /// `error` when a copy fails.
  void enqueue(std::size_t first, std::size_t last, bool is_last, std::function<void(double)> done);
  /// The logits of the step, which stay valid until the next one. Throws `error` when a copy fails.
  [[nodiscard]] step_output output();
  /// The hidden states of the step's tokens, for the next device. Throws `error` when a copy fails.
  [[nodiscard]] hidden_input hand_on();

private:
  /// Shared with the job in flight, which may run when this is gone. Jobs read only what was set before them and
  /// stays meanwhile.
  struct loaded_weights {
    explicit loaded_weights(std::shared_ptr<const weight_placement> p)
        : placement(std::move(p)), leases(placement->layout.groups.size()), memory(leases.size(), nullptr) {}
    std::shared_ptr<const weight_placement> placement;
    std::vector<lease> leases;
    std::vector<const std::byte*> memory; ///< of the groups that are there
  };
  struct job;

  [[nodiscard]] std::size_t top_k() const;
  [[nodiscard]] std::span<std::byte* const> page_starts() const;
  template <class T = float>
  [[nodiscard]] const T* on_host(buffer b, std::size_t count, std::size_t max_count, std::shared_ptr<std::byte>& copy);
  [[nodiscard]] const float* bring_hidden();

  step_jobs_setup setup_;
  tracer::track track_ = 0;
  std::shared_ptr<loaded_weights> weights_;
  bool watches_mapping_ = false; ///< some of the weights may be lost
  std::shared_ptr<const step> current_;
  std::shared_ptr<step> last_bound_; ///< current, or to be used again
  hidden_input from_;
  std::shared_ptr<communicator> group_; ///< of the step
};

} // namespace tropilla
