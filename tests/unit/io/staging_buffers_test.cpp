// Buffers where groups are put together, and what becomes of them.
#include "src/io/staging_buffers.hpp"

#include "kernels/host/host_device.hpp"

#include <catch2/catch.hpp>
#include <future>

using namespace tropilla;

namespace {

constexpr std::size_t bytes = 64;

struct two_buffers {
  explicit two_buffers(std::size_t cached = 0)
      : buffers(*dev, {.largest = bytes, .cached = cached}, dev->make_host_buffer(2 * bytes), [this] { ++freed; }, {}) {
  }

  /// Delivers and waits; whether there was no error.
  bool deliver(const std::shared_ptr<staging_buffers::buffer>& from, bool failed) {
    std::promise<bool> done;
    buffers.deliver(from, target.data(), bytes, failed,
                    [&](const error* why, std::chrono::nanoseconds) { done.set_value(why == nullptr); });
    return done.get_future().get();
  }

  std::unique_ptr<device> dev = make_host_device({});
  std::atomic<int> freed = 0;
  std::vector<std::byte> target = std::vector<std::byte>(bytes, std::byte{0xee});
  staging_buffers buffers;
};

} // namespace

TEST_CASE("two buffers take turns, and a delivered one is free again") {
  two_buffers t;
  const auto first = t.buffers.take(0, bytes, false);
  const auto second = t.buffers.take(1, bytes, false);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->memory != second->memory);
  CHECK_FALSE(t.buffers.any_free());
  CHECK_FALSE(t.buffers.take(2, bytes, false));
  std::fill_n(first->memory, bytes, std::byte{7});
  CHECK(t.deliver(first, false));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{7}));
  CHECK(t.freed == 1);
  CHECK(t.buffers.any_free());
  CHECK(t.buffers.take(2, bytes, false)->memory == first->memory);
}

TEST_CASE("what failed to be read is not copied, and its buffer is free again") {
  two_buffers t(bytes);
  const auto turn = t.buffers.take(0, bytes, false);
  std::fill_n(turn->memory, bytes, std::byte{7});
  CHECK(t.deliver(turn, true));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{0xee}));
  CHECK(t.freed == 1);

  using enum staging_buffers::buffer::content;
  const auto cached = t.buffers.take(1, bytes, true);
  std::fill_n(cached->memory, bytes, std::byte{8});
  CHECK(t.deliver(cached, true));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{0xee}));
  CHECK(cached->has == none);
  CHECK(t.buffers.take(1, bytes, true) == cached);
  CHECK(cached->has == in_flight);
  CHECK(t.deliver(cached, false));
  CHECK(cached->has == complete);
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{8}));
}
