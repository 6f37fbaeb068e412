// Places where groups are put together, and what becomes of them.
#include "src/io/staging_buffers.hpp"

#include "kernels/host/host_device.hpp"

#include <catch2/catch.hpp>
#include <future>

using namespace tropilla;

namespace {

constexpr std::size_t bytes = 64;

struct two_places {
  explicit two_places(std::size_t kept = 0)
      : places(*dev, {.largest = bytes, .kept = kept}, dev->make_host_buffer(2 * bytes), [this] { ++freed; }, {}) {}

  /// Delivers and waits; whether there was no error.
  bool deliver(const std::shared_ptr<staging_buffers::place>& from, bool failed) {
    std::promise<bool> done;
    places.deliver(from, target.data(), bytes, failed,
                   [&](const error* why, std::chrono::nanoseconds) { done.set_value(why == nullptr); });
    return done.get_future().get();
  }

  std::unique_ptr<device> dev = make_host_device({});
  std::atomic<int> freed = 0;
  std::vector<std::byte> target = std::vector<std::byte>(bytes, std::byte{0xee});
  staging_buffers places;
};

} // namespace

TEST_CASE("two places take turns, and a delivered one is free again") {
  two_places t;
  const auto first = t.places.take(0, bytes, false);
  const auto second = t.places.take(1, bytes, false);
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->memory != second->memory);
  CHECK_FALSE(t.places.any_free());
  CHECK_FALSE(t.places.take(2, bytes, false));
  std::fill_n(first->memory, bytes, std::byte{7});
  CHECK(t.deliver(first, false));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{7}));
  CHECK(t.freed == 1);
  CHECK(t.places.any_free());
  CHECK(t.places.take(2, bytes, false)->memory == first->memory);
}

TEST_CASE("what failed to be read is not copied, and its place is free again") {
  two_places t(bytes);
  const auto turn = t.places.take(0, bytes, false);
  std::fill_n(turn->memory, bytes, std::byte{7});
  CHECK(t.deliver(turn, true));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{0xee}));
  CHECK(t.freed == 1);

  using enum staging_buffers::place::content;
  const auto kept = t.places.take(1, bytes, true);
  std::fill_n(kept->memory, bytes, std::byte{8});
  CHECK(t.deliver(kept, true));
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{0xee}));
  CHECK(kept->has == none);
  CHECK(t.places.take(1, bytes, true) == kept);
  CHECK(kept->has == on_its_way);
  CHECK(t.deliver(kept, false));
  CHECK(kept->has == complete);
  CHECK(t.target == std::vector<std::byte>(bytes, std::byte{8}));
}
