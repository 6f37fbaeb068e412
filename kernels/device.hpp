/// The seam between tropilla and a device: memory, streams, events and `ops`. Code above it does not know which device
/// it uses.
#pragma once

#include "kernels/ops.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tropilla {

/// A point in a stream's order of work. Cheap to copy; any thread. An empty event is already done.
class event {
public:
  struct state;

  event() = default;
  explicit event(std::shared_ptr<state> s) : state_(std::move(s)) {}

  [[nodiscard]] bool done() const;
  /// Blocks the calling thread.
  void wait() const;
  /// Calls `f` once the event is done: at once on this thread when it is already, else on the stream's thread.
  /// `f` must be short and must not throw.
  void then(std::function<void()> f) const;

  /// For implementations of devices: makes an event that is not done, and marks it done.
  [[nodiscard]] static event make();
  void complete() const;

private:
  std::shared_ptr<state> state_;
};

/// Orders work: jobs run one after another in the order of the calls. Any thread may enqueue.
/// Destroying a stream runs what was enqueued, then joins.
class stream {
public:
  virtual ~stream() = default;

  /// Runs `job` after everything enqueued before. A job must not throw.
  virtual void enqueue(std::function<void()> job) = 0;
  /// Marks this point; done when everything enqueued before is.
  [[nodiscard]] virtual event record() = 0;
  /// Makes everything that is enqueued from now on run after `e`.
  virtual void wait(event e) = 0;
  /// Blocks until everything enqueued before is done. Not for the stream's own thread, which would wait for itself.
  virtual void synchronize() = 0;
  [[nodiscard]] virtual std::string_view name() const noexcept = 0;
};

/// A job for a device's compute stream. On a device with several workers (the threads of a host team) every worker
/// runs the same job with its own `ops`, in step; see `ops.hpp`.
using compute_job = std::function<void(ops&)>;

/// Tokens of a step that any device computes well.
inline constexpr std::size_t default_batch_tokens = 512;

class device {
public:
  virtual ~device() = default;

  [[nodiscard]] virtual std::string_view name() const noexcept = 0; ///< "host:0"
  /// Whether the processor reads and writes this device's memory as its own. Where not, `upload` and `download` copy,
  /// and code above the seam never follows a pointer into it.
  [[nodiscard]] virtual bool host_memory() const noexcept { return true; }
  /// Copies from the processor's memory into the device's, or back, and waits until it is done. Any thread, beside
  /// compute jobs. Throws `error` (device_failed).
  virtual void upload(const std::byte* from, std::byte* to, std::size_t bytes);
  virtual void download(const std::byte* from, std::byte* to, std::size_t bytes);
  /// Whether `copy_from` takes from `other`'s memory: both have memory that is not the processor's.
  [[nodiscard]] virtual bool takes_from(const device& other) const noexcept;
  /// Copies from another device's memory, where nothing writes meanwhile, and waits until it is done. Any thread.
  /// Throws `error` (device_failed). @pre takes_from(other)
  virtual void copy_from(const device& other, const std::byte* from, std::byte* to, std::size_t bytes);
  /// Allocates memory of the processor from and to which copies are fast; given back with the last handle. Throws
  /// `error` (over_budget) when the system has none left.
  [[nodiscard]] virtual std::shared_ptr<std::byte> make_host_buffer(std::size_t bytes);

  /// Reserves address space for a pool; pages are taken when first written, or by `commit`. Called once.
  /// Throws `error` (io_error) when the system refuses. The device owns the reservation.
  [[nodiscard]] virtual std::byte* reserve(std::size_t bytes) = 0;
  /// Called before bytes of the reservation are used. False: the device has no memory for them. Any thread.
  [[nodiscard]] virtual bool commit(std::byte*, std::size_t) noexcept { return true; }
  /// Called when bytes of the reservation will be written soon: their pages may be made now, on the caller's thread.
  /// Any thread.
  virtual void prefault(std::byte*, std::size_t) noexcept {}
  /// Gives pages of the reservation back to the system, as far as whole pages lie in these bytes, which hold nothing
  /// that is wanted. Any thread.
  virtual void trim(std::byte* begin, std::size_t bytes) noexcept = 0;
  /// A stream for copies and repacking, on a thread of its own.
  [[nodiscard]] virtual std::unique_ptr<stream> make_stream(std::string name) = 0;
  /// The device's one compute stream.
  [[nodiscard]] virtual stream& compute_stream() noexcept = 0;
  /// Enqueues a job on the compute stream.
  virtual void enqueue(compute_job job) = 0;
  /// Workers that run a compute job (host: threads of the team; CUDA: 1).
  [[nodiscard]] virtual std::size_t workers() const noexcept = 0;
  /// Tokens of a step beyond which a larger step gains nothing: weights are reused enough, and buffers grow.
  [[nodiscard]] virtual std::size_t useful_batch_tokens() const noexcept { return default_batch_tokens; }
  /// The instruction set or architecture that it computes with: "avx2".
  [[nodiscard]] virtual std::string_view isa() const noexcept = 0;
  /// Sizes of the buffers that `ops` needs, for the plan. See `ops.hpp`.
  [[nodiscard]] virtual std::size_t activation_bytes(activation_kind kind, std::size_t rows,
                                                     std::size_t width) const noexcept = 0;
  /// Scratch that ops use inside, for steps of up to `rows` rows whose sequences have up to `pages` pages between them,
  /// each counted as often as sequences share it, and matrices of up to `width` columns.
  [[nodiscard]] virtual std::size_t scratch_bytes(std::size_t rows, std::size_t width,
                                                  std::size_t pages) const noexcept = 0;
  /// Hands over the scratch (64-byte aligned) before the first job.
  virtual void set_scratch(std::byte* scratch, std::size_t bytes) = 0;
  /// A counter that grows while jobs run, in the middle of a job, too, where that can be seen (on the host). Any
  /// thread.
  [[nodiscard]] virtual std::uint64_t beats() const noexcept { return 0; }
  /// The error that made the device unusable: jobs from then on compute nothing that counts. Any thread.
  [[nodiscard]] virtual std::optional<error> failure() const { return std::nullopt; }
};

/// How a host device computes.
struct host_options {
  std::string name = "host:0";
  std::size_t threads = 0; ///< 0: the cores that this process may use
  bool precise = false;    ///< activations stay float32
  std::string isa = {};    ///< "" chooses; "scalar", "avx2", "avx512" force (also TROPILLA_ISA)
};

/// Throws `error` (invalid_argument) for an unknown or unavailable instruction set.
[[nodiscard]] std::unique_ptr<device> make_host_device(const host_options& options);

/// Cores that this process may use: affinity mask and cgroup quota (v1 and v2) respected, at least 1.
[[nodiscard]] std::size_t usable_cores();

/// The instruction set that would be chosen: "avx512", "avx2" or "scalar".
[[nodiscard]] std::string_view host_isa();

} // namespace tropilla
