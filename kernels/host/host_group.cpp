// Host devices that exchange values by reading each other's memory: one barrier among ranks, and no buffer in between.
#include "kernels/collective.hpp"

#include "kernels/device.hpp"
#include "kernels/spin.hpp"
#include "memory/rounding.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <cstring>
#include <fmt/format.h>
#include <mutex>
#include <numeric>
#include <string_view>
#include <thread>
#include <utility>

namespace tropilla::host {
namespace {

using namespace std::chrono_literals;

/// Two cache lines: processors fetch them in pairs.
constexpr std::size_t shared_alignment = 128;
/// Looks for another rank before a worker yields, and the same where the group has more workers than cores: as a
/// team's (team.cpp).
constexpr int looks_before_yielding = 2000;
constexpr int looks_when_sharing = 20;
/// How long a worker looks and yields by turns before it sleeps. 34 ms of computing with two threads took 0 to 6%
/// longer beside a rank that waited on the same two cores.
constexpr std::chrono::nanoseconds spin_for_rank = 500us;
constexpr std::chrono::nanoseconds min_sleep = 50us; ///< what the system makes of any shorter one
constexpr std::chrono::nanoseconds max_sleep = 1ms;
/// More than this between two looks is no waiting: the process was stopped, and the other ranks with it.
constexpr std::chrono::nanoseconds max_wait_per_look = 200ms;
/// Arrays that go with one barrier: those of an activation that is quantised and float32, too.
constexpr std::size_t arrays_per_round = 7;
/// Values that are added up at once: what the first-level cache holds of many ranks.
constexpr std::size_t values_per_sum = 256;

/// What a rank shows the others in one round, which is one barrier among all ranks.
struct alignas(shared_alignment) notice {
  struct array {
    std::byte* data;
    std::size_t stride;
  };
  std::atomic<std::uint64_t> round = 0; ///< that the rank has come to; the arrays are written before
  std::array<array, arrays_per_round> arrays{};
};
static_assert(sizeof(notice) == shared_alignment);

/// Two of them by turns: others may still read the one of the round before.
using notices = std::array<notice, 2>;

/// What one rank sends to another.
struct channel {
  alignas(shared_alignment) std::atomic<std::uint64_t> sent = 0; ///< what follows is written before
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  alignas(shared_alignment) std::atomic<std::uint64_t> received = 0;
};

/// What all ranks of a group have in common.
class group_state {
public:
  group_state(std::span<const std::size_t> workers, std::chrono::milliseconds limit)
      : looks_(std::accumulate(workers.begin(), workers.end(), std::size_t{0}) > tropilla::usable_cores()
                   ? looks_when_sharing
                   : looks_before_yielding),
        limit_(limit), notices_(workers.size()), channels_(workers.size() * workers.size()) {}

  [[nodiscard]] std::size_t ranks() const noexcept { return notices_.size(); }
  [[nodiscard]] notice& of(std::size_t rank, std::uint64_t round) noexcept { return notices_[rank][round % 2]; }
  [[nodiscard]] channel& between(std::size_t from, std::size_t to) noexcept { return channels_[from * ranks() + to]; }

  void fail(const error& why) noexcept {
    const std::lock_guard lock(mutex_);
    if (failure_)
      return;
    failure_ = why;
    failed_.store(true, std::memory_order_release);
  }
  [[nodiscard]] bool failed() const noexcept { return failed_.load(std::memory_order_acquire); }
  [[nodiscard]] std::optional<error> failure() const {
    const std::lock_guard lock(mutex_);
    return failure_;
  }

  /// Waits until `rank` has counted `counter` up to `value`, which it does in `call`. False: the group failed before.
  [[nodiscard]] bool wait(const std::atomic<std::uint64_t>& counter, std::uint64_t value, std::size_t rank,
                          std::string_view call) {
    bool come = false;
    const auto over = [&] {
      come = counter.load(std::memory_order_acquire) >= value;
      return come || failed();
    };
    for (int i = 0; i < looks_; ++i) {
      if (over())
        return come;
      relax();
    }
    auto last = std::chrono::steady_clock::now();
    if (spin_for(spin_for_rank, over))
      return come;
    for (std::chrono::nanoseconds waited = 0ns; !over();) {
      const auto now = std::chrono::steady_clock::now();
      waited += std::min<std::chrono::nanoseconds>(now - last, max_wait_per_look);
      last = now;
      if (limit_ > 0ns && waited >= limit_) {
        fail(
            {errc::device_failed,
             fmt::format("rank {} of {} did not come to {} within {} ms: its device failed, or its steps need a longer "
                         "limit",
                         rank, ranks(), call, std::chrono::duration_cast<std::chrono::milliseconds>(limit_).count())});
        return false;
      }
      // An eighth of the time so far, so that sleeping makes no wait much longer than it was.
      std::this_thread::sleep_for(std::clamp<std::chrono::nanoseconds>(waited / 8, min_sleep, max_sleep));
    }
    return come;
  }

private:
  const int looks_; ///< before a worker yields
  const std::chrono::nanoseconds limit_;
  std::vector<notices> notices_;  ///< by rank
  std::vector<channel> channels_; ///< by sender, then receiver
  alignas(shared_alignment) std::atomic<bool> failed_ = false;
  mutable std::mutex mutex_;
  std::optional<error> failure_;
};

/// Bytes, from `first` to before `last`.
struct byte_range {
  std::size_t first, last;
};

/// The share of one of `count` workers or ranks in `bytes` bytes: whole cache lines, as far as they go.
byte_range share_of(std::size_t bytes, std::size_t index, std::size_t count) noexcept {
  constexpr std::size_t line = 64;
  const std::size_t lines = divide_up(bytes, line);
  return {std::min(bytes, lines * index / count * line), std::min(bytes, lines * (index + 1) / count * line)};
}

/// Copies bytes of a block of rows: those in `part`, as if its rows of `width` bytes followed each other.
void copy_part(const notice::array& from, const notice::array& to, std::size_t offset, std::size_t width,
               byte_range part) noexcept {
  std::size_t row = part.first / width;
  std::size_t skipped = part.first % width;
  for (std::size_t left = part.last - part.first; left > 0; ++row, skipped = 0) {
    const std::size_t n = std::min(width - skipped, left);
    std::memcpy(to.data + row * to.stride + offset + skipped, from.data + row * from.stride + offset + skipped, n);
    left -= n;
  }
}

/// A call ends with a barrier of the device's workers even when it fails, so that no worker is a barrier ahead of the
/// others. In a call of all ranks worker 0 says for all workers that the rank has come: the operation before ended with
/// a barrier, so all are done with that, and with what they read of other ranks.
class host_communicator final : public communicator {
public:
  host_communicator(std::shared_ptr<group_state> group, std::size_t rank, std::size_t workers)
      : group_(std::move(group)), rank_(rank), workers_(workers) {
    for (auto& w : workers_)
      w.received.resize(ranks());
  }

  [[nodiscard]] std::size_t rank() const noexcept override { return rank_; }
  [[nodiscard]] std::size_t ranks() const noexcept override { return group_->ranks(); }
  void abort(const error& why) noexcept override { group_->fail(why); }
  [[nodiscard]] std::optional<error> failure() const override { return group_->failure(); }

  void all_gather(ops& o, std::span<const gathered_rows> all, std::size_t rows,
                  std::span<const std::size_t> bounds) override {
    do { // once even for no arrays: the call still says that those before it are over
      const std::size_t count = std::min(all.size(), arrays_per_round);
      gather(o, all.first(count), rows, bounds, "an all-gather");
      all = all.subspan(count);
    } while (!all.empty());
  }

  void all_reduce(ops& o, float* values, std::size_t count) override {
    constexpr std::string_view call = "an all-reduce";
    auto* const data = reinterpret_cast<std::byte*>(values);
    const std::size_t bytes = count * sizeof(float);
    std::array<std::size_t, max_host_ranks + 1> bounds{};
    for (std::size_t r = 0; r < ranks(); ++r)
      bounds[r + 1] = share_of(bytes, r, ranks()).last / sizeof(float);

    // Each rank adds up its share of the values. Others read the rest of its own, so the sums go where they belong.
    const gathered_rows row{data, bytes, sizeof(float)};
    if (const auto round = meet(o, {&row, 1}, call)) {
      const auto [first, last] = share_of((bounds[rank_ + 1] - bounds[rank_]) * sizeof(float), o.worker(), o.workers());
      add_up(*round, bounds[rank_] + first / sizeof(float), bounds[rank_] + last / sizeof(float), values);
    }
    o.barrier();
    gather(o, {&row, 1}, 1, {bounds.data(), ranks() + 1}, call);
  }

  void broadcast(ops& o, std::byte* data, std::size_t bytes, std::size_t root) override {
    assert(root < ranks());
    const gathered_rows all{data, bytes, 1};
    if (const auto round = meet(o, {&all, 1}, "a broadcast"); round && rank_ != root) {
      const auto [first, last] = share_of(bytes, o.worker(), o.workers());
      copy_bytes(group_->of(root, *round).arrays[0].data + first, data + first, last - first);
    }
    o.barrier();
  }

  void send(ops& o, const std::byte* data, std::size_t bytes, std::size_t to) override {
    assert(to < ranks() && to != rank_);
    if (o.worker() == 0 && !group_->failed()) {
      channel& c = group_->between(rank_, to);
      const std::uint64_t before = c.sent.load(std::memory_order_relaxed); // this worker alone writes it
      if (group_->wait(c.received, before, to, "a receive")) {
        c.data = data;
        c.bytes = bytes;
        c.sent.store(before + 1, std::memory_order_release);
      }
    }
    o.barrier();
  }

  void receive(ops& o, std::byte* data, std::size_t bytes, std::size_t from) override {
    assert(from < ranks() && from != rank_);
    channel& c = group_->between(from, rank_);
    const std::uint64_t number = ++workers_[o.worker()].received[from];
    if (!group_->failed() && group_->wait(c.sent, number, from, "a send")) {
      if (c.bytes == bytes) {
        const auto [first, last] = share_of(bytes, o.worker(), o.workers());
        copy_bytes(c.data + first, data + first, last - first);
      } else {
        group_->fail({errc::internal, fmt::format("rank {} sent {} bytes, of which rank {} was to receive {}", from,
                                                  c.bytes, rank_, bytes)});
      }
    }
    o.barrier();
    if (o.worker() == 0)
      c.received.store(number, std::memory_order_release);
  }

private:
  struct alignas(shared_alignment) worker_state {
    std::uint64_t rounds = 0;            ///< barriers among ranks that this worker has come to
    std::vector<std::uint64_t> received; ///< from each rank
  };

  static void copy_bytes(const std::byte* from, std::byte* to, std::size_t bytes) noexcept {
    if (bytes > 0) // else pointers may be null
      std::memcpy(to, from, bytes);
  }

  /// Shows the others `arrays` and waits until all have shown theirs, which says that all are done with reading what
  /// this rank showed in the round before. Gives the round, or nothing when the group has failed.
  [[nodiscard]] std::optional<std::uint64_t> meet(ops& o, std::span<const gathered_rows> arrays,
                                                  std::string_view call) {
    assert(o.workers() == workers_.size());
    const std::uint64_t round = ++workers_[o.worker()].rounds;
    if (group_->failed())
      return std::nullopt;
    if (o.worker() == 0) {
      notice& own = group_->of(rank_, round);
      std::transform(arrays.begin(), arrays.end(), own.arrays.begin(), [](const gathered_rows& a) {
        return notice::array{a.data, a.stride};
      });
      own.round.store(round, std::memory_order_release);
    }
    for (std::size_t r = 0; r < ranks(); ++r)
      if (r != rank_ && !group_->wait(group_->of(r, round).round, round, r, call))
        return std::nullopt;
    return round;
  }

  /// An all-gather of up to `arrays_per_round` arrays.
  void gather(ops& o, std::span<const gathered_rows> arrays, std::size_t rows, std::span<const std::size_t> bounds,
              std::string_view call) {
    if (const auto round = meet(o, arrays, call))
      copy_share(o, *round, arrays, rows, bounds);
    o.barrier();
  }

  /// Copies this worker's share of what the others have: of all blocks one after another, each the rows of one array
  /// and one rank.
  void copy_share(const ops& o, std::uint64_t round, std::span<const gathered_rows> arrays, std::size_t rows,
                  std::span<const std::size_t> bounds) {
    const std::size_t units = bounds[ranks()] - (bounds[rank_ + 1] - bounds[rank_]);
    std::size_t bytes = 0;
    for (const auto& a : arrays)
      bytes += rows * units * a.unit;
    const byte_range share = share_of(bytes, o.worker(), o.workers());
    std::size_t block = 0; // where it begins
    for (std::size_t i = 0; i < arrays.size(); ++i) {
      const notice::array own{arrays[i].data, arrays[i].stride};
      for (std::size_t r = rank_ + 1; r != rank_ + ranks(); ++r) { // not all from one rank at the same time
        const std::size_t from = r % ranks();
        const std::size_t width = (bounds[from + 1] - bounds[from]) * arrays[i].unit;
        const std::size_t next = block + rows * width;
        const byte_range part{std::max(share.first, block), std::min(share.last, next)};
        if (part.first < part.last)
          copy_part(group_->of(from, round).arrays[i], own, bounds[from] * arrays[i].unit, width,
                    {part.first - block, part.last - block});
        block = next;
      }
    }
  }

  /// Adds up the values [first, last) of all ranks into those of this one. (Its own notice is for the others: worker 0
  /// may not have written it yet.)
  void add_up(std::uint64_t round, std::size_t first, std::size_t last, float* own) {
    const auto values_of = [&](std::size_t r) {
      if (r == rank_)
        return static_cast<const float*>(own);
      return reinterpret_cast<const float*>(group_->of(r, round).arrays[0].data);
    };
    std::array<float, values_per_sum> sum; // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
    for (std::size_t n; first < last; first += n) {
      n = std::min(values_per_sum, last - first);
      std::copy_n(values_of(0) + first, n, sum.begin());
      for (std::size_t r = 1; r < ranks(); ++r) {
        const float* const values = values_of(r) + first;
        for (std::size_t i = 0; i < n; ++i)
          sum[i] += values[i];
      }
      std::copy_n(sum.begin(), n, own + first);
    }
  }

  std::shared_ptr<group_state> group_;
  std::size_t rank_;
  std::vector<worker_state> workers_;
};

} // namespace
} // namespace tropilla::host

namespace tropilla {

std::vector<std::unique_ptr<communicator>> make_host_group(std::span<const std::size_t> workers,
                                                           std::chrono::milliseconds limit) {
  if (workers.empty() || workers.size() > max_host_ranks)
    throw error(errc::invalid_argument, fmt::format("a group of {} host devices was asked for; it can have 1 to {}",
                                                    workers.size(), max_host_ranks));
  if (const auto none = std::find(workers.begin(), workers.end(), 0); none != workers.end())
    throw error(errc::invalid_argument,
                fmt::format("rank {} of a group has no workers; it needs one or more", none - workers.begin()));
  auto group = std::make_shared<host::group_state>(workers, limit);
  std::vector<std::unique_ptr<communicator>> ranks;
  for (std::size_t r = 0; r < workers.size(); ++r)
    ranks.push_back(std::make_unique<host::host_communicator>(group, r, workers[r]));
  return ranks;
}

} // namespace tropilla
