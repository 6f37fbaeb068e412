// Goes round the circle of a recording, and watches the pool.
#include "bench/pool_replay.hpp"

#include "memory/pool.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <list>
#include <optional>
#include <vector>

namespace tropilla::bench {
namespace {

/// Blocks of one size, cut from larger blocks. New ones come from the fullest, so that others empty and go.
class slabs {
public:
  slabs(pool& from, std::size_t count) : blocks_(from), count_(count) {}

  struct slab {
    pool::block block;
    std::size_t taken = 0;
  };
  using place = std::list<slab>::iterator;

  std::optional<place> take(std::size_t bytes) {
    auto fullest = all_.end();
    for (auto it = all_.begin(); it != all_.end(); ++it)
      if (it->taken < count_ && (fullest == all_.end() || it->taken > fullest->taken))
        fullest = it;
    if (fullest == all_.end()) {
      const auto block = blocks_.allocate(bytes * count_, pool::end::low);
      if (!block)
        return std::nullopt;
      fullest = all_.insert(all_.end(), {*block, 0});
    }
    ++fullest->taken;
    return fullest;
  }

  void give(place s) {
    if (--s->taken > 0)
      return;
    blocks_.free(s->block);
    all_.erase(s);
  }

private:
  pool& blocks_;
  std::size_t count_;
  std::list<slab> all_;
};

class rounds {
public:
  rounds(const pool_recording& r, const replay_options& o)
      : recording_(r), options_(o), blocks_(o.capacity, r.alignment), extents_(blocks_, o.slab_extents),
        due_(2 * r.allocations.size() + 1) {}

  replay_result run(bool until_misplaced) {
    const auto start = std::chrono::steady_clock::now();
    for (const auto kind : recording_.stay)
      (void)take(kind);
    do
      round(until_misplaced);
    while ((result_.rounds < 3 || result_.operations < options_.operations) &&
           !(until_misplaced && result_.misplaced > 0));
    summarise();
    result_.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result_;
  }

private:
  struct held {
    std::optional<pool::block> block;
    std::optional<slabs::place> slab;
    std::size_t bytes = 0;
  };

  void round(bool until_misplaced) {
    for (const auto& a : recording_.allocations) {
      auto& over = due_[at_ % due_.size()];
      for (const auto& h : over)
        give(h);
      over.clear();
      if (const auto h = take(a.kind); h.block || h.slab)
        due_[(at_ + a.life) % due_.size()].push_back(h);
      ++at_;
      if (result_.rounds > 0)
        look();
      if (until_misplaced && result_.misplaced > 0)
        return;
    }
    ++result_.rounds;
  }

  held take(std::size_t kind) {
    const auto& k = recording_.kinds[kind];
    const bool extent = k.purpose == "KV pages";
    held h{.block = {}, .slab = {}, .bytes = blocks_.rounded(k.bytes)};
    if (extent && options_.rule == placement_rule::slabs)
      h.slab = extents_.take(k.bytes);
    else
      h.block = blocks_.allocate(k.bytes,
                                 extent || options_.rule == placement_rule::one_end ? pool::end::low : pool::end::high);
    if (!h.block && !h.slab) {
      ++result_.misplaced;
      return h;
    }
    in_use_ += h.bytes;
    ++result_.operations;
    return h;
  }

  void give(const held& h) {
    if (h.slab)
      extents_.give(*h.slab);
    else
      blocks_.free(*h.block);
    in_use_ -= h.bytes;
    ++result_.operations;
  }

  void look() {
    const auto s = blocks_.statistics();
    const std::size_t free = s.capacity - in_use_;
    const double scatter = free == 0 ? 0 : 1 - static_cast<double>(s.largest_free) / static_cast<double>(free);
    max_taken_ = std::max(max_taken_, s.capacity - s.largest_free);
    result_.peak_bytes = std::max(result_.peak_bytes, in_use_);
    sum_in_use_ += static_cast<double>(in_use_);
    sum_scatter_ += scatter;
    ++histogram_[static_cast<std::size_t>(scatter * last_bin)];
    ++looks_;
  }

  void summarise() {
    if (looks_ == 0)
      return;
    const auto peak = static_cast<double>(result_.peak_bytes), looks = static_cast<double>(looks_);
    result_.waste = static_cast<double>(max_taken_) / peak - 1;
    result_.in_use_mean = sum_in_use_ / looks / peak;
    result_.scatter_mean = sum_scatter_ / looks;
    std::uint64_t passed = 0;
    for (std::size_t i = 0; i < histogram_.size() && static_cast<double>(passed) < 0.95 * looks; ++i) {
      passed += histogram_[i];
      result_.scatter_p95 = static_cast<double>(i + 1) / last_bin;
    }
  }

  const pool_recording& recording_;
  const replay_options options_;
  pool blocks_;
  slabs extents_;
  std::vector<std::vector<held>> due_; ///< what is freed before the allocation at this place in a ring
  std::uint64_t at_ = 0;
  std::size_t in_use_ = 0, max_taken_ = 0;
  double sum_in_use_ = 0, sum_scatter_ = 0;
  std::uint64_t looks_ = 0;
  static constexpr double last_bin = 1000;
  std::array<std::uint64_t, 1001> histogram_{}; ///< looks by scatter in thousandths
  replay_result result_;
};

} // namespace

replay_result replay(const pool_recording& recording, const replay_options& options) {
  return rounds(recording, options).run(false);
}

std::size_t peak_bytes(const pool_recording& recording) {
  std::size_t all = 0;
  const auto up = [&](std::size_t kind) {
    return (recording.kinds[kind].bytes + recording.alignment - 1) / recording.alignment * recording.alignment;
  };
  for (const auto kind : recording.stay)
    all += up(kind);
  for (const auto& a : recording.allocations)
    all += up(a.kind) * 2; // a life is at most two rounds
  return replay(recording, {.operations = 0, .capacity = all, .rule = placement_rule::one_end}).peak_bytes;
}

std::size_t smallest_capacity(const pool_recording& recording, replay_options options) {
  const std::size_t peak = peak_bytes(recording);
  std::size_t too_small = 0, enough = 1024;
  while (too_small + 1 < enough) { // in 1/256 of the peak, from 0 to four peaks
    const std::size_t middle = (too_small + enough) / 2;
    options.capacity = peak / 256 * middle;
    (rounds(recording, options).run(true).misplaced > 0 ? too_small : enough) = middle;
  }
  return peak / 256 * enough;
}

} // namespace tropilla::bench
