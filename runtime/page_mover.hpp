/// Carries out the moves of KV pages between devices and the store, on threads of its own.
#pragma once

#include "kernels/thread_stream.hpp"
#include "src/io/kv_store.hpp"
#include "src/trace/trace.hpp"

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

namespace tropilla {

/// Saves run one after another on one thread, restores and prefetches on another: a sequence that comes back does not
/// wait until others have gone. Pages of devices without host memory are copied by `device::upload` and `download`,
/// beside compute. Any thread may start moves.
class page_mover {
public:
  /// The part of every page that is on one device: its layers, and its share of their heads.
  struct part {
    std::shared_ptr<device> dev;
    std::size_t bytes = 0;
  };

  /// `parts`: in the order of the layers; together a page of the store. `over` is called on the mover's threads when a
  /// move is over; it must be quick and not throw.
  page_mover(std::shared_ptr<kv_store> store, std::vector<part> parts, std::function<void()> over,
             tracer* trace = nullptr);
  /// Waits until the moves that were started are over, and what was saved is on the disk.
  ~page_mover();
  page_mover(const page_mover&) = delete;
  page_mover& operator=(const page_mover&) = delete;

  /// Starts a move. One that fails is over like any other, with the pages moved up to then.
  void start(std::shared_ptr<page_move> move);

private:
  void run(page_move& m);
  void save(page_move& m);
  void restore(page_move& m);
  void prefetch(const page_move& m);
  void read_page(const page_move& m, std::size_t page, std::span<std::byte> into);
  void write_page(const page_move& m, std::size_t page, std::span<const std::byte> from);

  std::shared_ptr<kv_store> store_;
  std::vector<part> parts_;
  std::function<void()> over_;
  tracer* trace_;
  tracer::track saves_track_ = 0, restores_track_ = 0;
  std::atomic<std::size_t> saves_ = 0; ///< that were started and are not over
  thread_stream saving_, restoring_;   ///< last: their threads use the rest
};

} // namespace tropilla
