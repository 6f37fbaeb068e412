// Host devices that exchange values by reading each other's memory: one barrier among ranks, and no buffer in between.
#include "kernels/collective.hpp"

#include "kernels/activation_format.hpp"
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
#include <tuple>
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
/// Arrays that go with one barrier: those of an activation.
constexpr std::size_t arrays_per_round = std::tuple_size_v<activation_arrays>;
/// Values that are added up at once: what the first-level cache holds of many ranks.
constexpr std::size_t values_per_sum = 256;

/// What a rank shows the others in one round, which is one barrier among all ranks.
struct alignas(shared_alignment) notice {
  struct array {
    const std::byte* part;
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

/// Copies bytes of a block of rows to `to`, where they are `stride` bytes apart: those in `bytes`, as if the block's
/// rows of `width` bytes followed each other.
void copy_part(const notice::array& from, std::byte* to, std::size_t stride, std::size_t width,
               byte_range bytes) noexcept {
  std::size_t row = bytes.first / width;
  std::size_t skipped = bytes.first % width;
  for (std::size_t left = bytes.last - bytes.first; left > 0; ++row, skipped = 0) {
    const std::size_t n = std::min(width - skipped, left);
    std::memcpy(to + row * stride + skipped, from.part + row * from.stride + skipped, n);
    left -= n;
  }
}

/// What `add_up` does with the values of the ranks.
struct sum_of {
  using value = float;
  static void add(value& to, value more) noexcept { to += more; }
};
struct bits_of {
  using value = std::uint32_t;
  static void add(value& to, value more) noexcept { to |= more; }
};

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

  void combine(ops& o, float* values, std::size_t count) override {
    reduce<bits_of>(o, values, count, "a combination of values");
  }

  void all_reduce(ops& o, float* values, std::size_t count) override {
    reduce<sum_of>(o, values, count, "an all-reduce");
  }

  void broadcast(ops& o, std::byte* data, std::size_t bytes, std::size_t root) override {
    assert(root < ranks());
    const gathered_rows all = in_place(data, bytes, 1, 0);
    if (const auto round = meet(o, {&all, 1}, "a broadcast"); round && rank_ != root) {
      const auto [first, last] = share_of(bytes, o.worker(), o.workers());
      copy_bytes(group_->of(root, *round).arrays[0].part + first, data + first, last - first);
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
  template <class Operation>
  void reduce(ops& o, float* values, std::size_t count, std::string_view call) {
    auto* const data = reinterpret_cast<std::byte*>(values);
    const std::size_t bytes = count * sizeof(float);
    std::array<std::size_t, max_host_ranks + 1> bounds{};
    for (std::size_t r = 0; r < ranks(); ++r)
      bounds[r + 1] = share_of(bytes, r, ranks()).last / sizeof(float);

    // Each rank adds up its share of the values. Others read the rest of its own, so the sums go where they belong.
    const gathered_rows row = in_place(data, bytes, sizeof(float), bounds[rank_]);
    const gathered_rows all = in_place(data, bytes, sizeof(float), 0);
    if (const auto round = meet(o, {&all, 1}, call)) {
      const auto [first, last] = share_of((bounds[rank_ + 1] - bounds[rank_]) * sizeof(float), o.worker(), o.workers());
      add_up<Operation>(*round, bounds[rank_] + first / sizeof(float), bounds[rank_] + last / sizeof(float), values);
    }
    o.barrier();
    gather(o, {&row, 1}, 1, {bounds.data(), ranks() + 1}, call);
  }

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
        return notice::array{a.part, a.part_stride};
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

  /// Whether this rank's values of an array already lie where its whole rows are wanted.
  [[nodiscard]] bool has_its_own(const gathered_rows& a, std::span<const std::size_t> bounds) const noexcept {
    return a.part == a.all + bounds[rank_] / a.unit_values * a.unit;
  }

  /// Copies this worker's share of what is wanted: of all blocks one after another, each the rows of one array and one
  /// rank.
  void copy_share(const ops& o, std::uint64_t round, std::span<const gathered_rows> arrays, std::size_t rows,
                  std::span<const std::size_t> bounds) {
    std::size_t bytes = 0;
    for_blocks(arrays, rows, bounds, [&](const block& b) { bytes += rows * b.width; });
    const byte_range share = share_of(bytes, o.worker(), o.workers());
    std::size_t begin = 0; // of a block
    for_blocks(arrays, rows, bounds, [&](const block& b) {
      const std::size_t next = begin + rows * b.width;
      const byte_range mine{std::max(share.first, begin), std::min(share.last, next)};
      if (mine.first < mine.last) {
        const gathered_rows& a = arrays[b.array];
        // This rank's own notice is for the others: worker 0 may not have written it yet.
        const auto from =
            b.rank == rank_ ? notice::array{a.part, a.part_stride} : group_->of(b.rank, round).arrays[b.array];
        copy_part(from, a.all + b.offset, a.stride, b.width, {mine.first - begin, mine.last - begin});
      }
      begin = next;
    });
  }

  /// The rows of one array that are copied from one rank: `width` bytes of each, to `offset` in it.
  struct block {
    std::size_t array, rank, offset, width;
  };
  template <class F>
  void for_blocks(std::span<const gathered_rows> arrays, std::size_t rows, std::span<const std::size_t> bounds,
                  F f) const {
    for (std::size_t i = 0; rows > 0 && i < arrays.size(); ++i) {
      const gathered_rows& a = arrays[i];
      if (a.all == nullptr)
        continue;
      for (std::size_t n = has_its_own(a, bounds) ? 1 : 0; n < ranks(); ++n) { // not all from one rank at the same time
        const std::size_t from = (rank_ + n) % ranks(), offset = bounds[from] / a.unit_values * a.unit;
        // The last unit may be a part of one, with room for less than a whole.
        const std::size_t width = divide_up(bounds[from + 1] - bounds[from], a.unit_values) * a.unit;
        f(block{i, from, offset, std::min(width, a.stride - offset)});
      }
    }
  }

  /// Adds the values [first, last) of all ranks, in their order, and has them in the place of this one's. (Its own
  /// notice is for the others: worker 0 may not have written it yet.)
  template <class Operation>
  void add_up(std::uint64_t round, std::size_t first, std::size_t last, float* own) {
    using value = typename Operation::value;
    const auto copy = [&](std::size_t r, value* to, std::size_t count) {
      const auto* const from =
          r == rank_ ? reinterpret_cast<const std::byte*>(own) : group_->of(r, round).arrays[0].part;
      std::memcpy(to, from + first * sizeof(value), count * sizeof(value));
    };
    std::array<value, values_per_sum> sum, more; // NOLINT(cppcoreguidelines-pro-type-member-init): written first
    for (std::size_t n; first < last; first += n) {
      n = std::min(values_per_sum, last - first);
      copy(0, sum.data(), n);
      for (std::size_t r = 1; r < ranks(); ++r) {
        copy(r, more.data(), n);
        for (std::size_t i = 0; i < n; ++i)
          Operation::add(sum[i], more[i]);
      }
      std::memcpy(own + first, sum.data(), n * sizeof(value));
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
