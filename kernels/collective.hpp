/// What devices that compute one step together exchange.
///
/// Every rank is a device. A call is made inside a compute job, by every worker of the device with the same arguments,
/// as an operation of `ops` is (kernels/ops.hpp), and by all ranks in the same order: it orders itself with the
/// operations before and after it, on a host device by running there, on a GPU by being put into its compute stream.
/// Values move as they are, so their bits do not depend on the ranks. Sums are made in the order of the ranks, so all
/// ranks have the same bits.
///
/// A call may return before others have read what it was given. Their rank may write it again, or give it back:
/// - what it gave to a call of all ranks, when its next call of all ranks has returned;
/// - what it gave to `send`, when its next `send` to that rank, or its next call of all ranks, has returned;
/// - what it gave to `receive`, at once.
/// So callers use two buffers by turns. After a failure memory stays until the jobs of all ranks have ended.
#pragma once

#include "kernels/ops.hpp"
#include "tropilla/error.hpp"

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace tropilla {

/// Rows that are divided between the ranks: of each row, rank `r` has the values [bounds[r], bounds[r + 1]).
struct gathered_rows {
  const std::byte* part = nullptr; ///< this rank's values, row by row
  std::size_t part_stride = 0;     ///< bytes from one row of them to the next; ranks may differ
  std::byte* all =
      nullptr;            ///< where whole rows are wanted; null: not on this rank. `part` may be in them, in its place
  std::size_t stride = 0; ///< bytes from one whole row to the next; ranks may differ
  std::size_t unit = 0;   ///< bytes of `unit_values` values; the same for all ranks
  std::size_t unit_values = 1; ///< bounds but the last are multiples of it; a last part of a unit is copied as one
};

/// Rows in which this rank has written its values where they belong: from value `first` on, its bound.
[[nodiscard]] constexpr gathered_rows in_place(std::byte* rows, std::size_t stride, std::size_t unit, std::size_t first,
                                               std::size_t unit_values = 1) noexcept {
  return {rows + first / unit_values * unit, stride, rows, stride, unit, unit_values};
}

/// One rank's end of a group. `abort` and `failure` may be called by any thread, the others as said above.
///
/// After an abort, or when a rank did not come within the time limit, the calls of all ranks return at once and move
/// nothing that counts; `failure` says why. A group that failed stays so: make another.
class communicator {
public:
  virtual ~communicator() = default;

  [[nodiscard]] virtual std::size_t rank() const noexcept = 0;
  [[nodiscard]] virtual std::size_t ranks() const noexcept = 0;

  /// Every rank that wants them has `rows` whole rows of each of `arrays` afterwards. `bounds` has ranks + 1 numbers,
  /// ascending from 0, and is the same for all ranks, as `rows` and the number of arrays are.
  virtual void all_gather(ops& o, std::span<const gathered_rows> arrays, std::size_t rows,
                          std::span<const std::size_t> bounds) = 0;
  /// Every rank has the values of all: of each value, all ranks but one have zero bits.
  virtual void combine(ops& o, float* values, std::size_t count) = 0;
  /// Every rank has the sums of `count` values, each added up in the order of the ranks.
  virtual void all_reduce(ops& o, float* values, std::size_t count) = 0;
  /// Every rank has the bytes of `root`.
  virtual void broadcast(ops& o, std::byte* data, std::size_t bytes, std::size_t root) = 0;
  /// Moves bytes to another rank, which calls `receive` with as many; only the two call. Sends from one rank to another
  /// keep their order. A send waits until the one before it to the same rank was received.
  virtual void send(ops& o, const std::byte* data, std::size_t bytes, std::size_t to) = 0;
  virtual void receive(ops& o, std::byte* data, std::size_t bytes, std::size_t from) = 0;

  /// Makes the group fail for this reason, if it has not failed before.
  virtual void abort(const error& why) noexcept = 0;
  /// Why the group failed: what `abort` was given, or device_failed for a rank that did not come.
  [[nodiscard]] virtual std::optional<error> failure() const = 0;
};

/// The most ranks of one process.
inline constexpr std::size_t max_host_ranks = 64;

/// Makes a group of host devices of this process, which read each other's memory. `workers`: of each rank's device.
/// `limit`: how long a rank waits for another in one call, not counting while the process is stopped; 0: for ever.
/// Throws `error` (invalid_argument) for no ranks, more than `max_host_ranks`, or a rank without workers.
[[nodiscard]] std::vector<std::unique_ptr<communicator>> make_host_group(std::span<const std::size_t> workers,
                                                                         std::chrono::milliseconds limit);

} // namespace tropilla
