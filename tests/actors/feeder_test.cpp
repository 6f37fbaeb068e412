// The feeder: requests by demand, and nothing lost or repeated when it ends.
#include "actors/feeder.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <cstdio>
#include <fcntl.h>
#include <mutex>
#include <numeric>
#include <unistd.h>

using namespace tropilla;

namespace {

class collector final : public cast::request_sink {
public:
  void take(batch_request r) override {
    change([&] { lines.push_back(r.line); });
  }
  void input_ended() override {
    change([&] { ended = true; });
  }
  void input_failed(const error& why) override {
    change([&] { failure = why.what(); });
  }
  void feeder_ended() override {
    change([&] { ++gone; });
  }

  template <class F>
  void wait(F until) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, until);
  }

  std::vector<std::size_t> lines;
  bool ended = false;
  std::size_t gone = 0;
  std::string failure;

private:
  template <class F>
  void change(F f) {
    const std::lock_guard lock(mutex_);
    f();
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
};

struct file_closer {
  void operator()(std::FILE* f) const { std::fclose(f); }
};

std::shared_ptr<request_queue> queue_of(int descriptor) {
  request_queue_setup s;
  s.input = descriptor;
  s.name = "the input";
  s.encode = [](const batch_prompt&, std::optional<bool>) { return std::vector<token_id>{1}; };
  s.max_requests = 7;
  return std::make_shared<request_queue>(std::move(s));
}

/// A file without a name, at its start.
std::unique_ptr<std::FILE, file_closer> file_of(std::size_t lines) {
  std::unique_ptr<std::FILE, file_closer> file(std::tmpfile());
  REQUIRE(file);
  for (std::size_t i = 0; i < lines; ++i)
    REQUIRE(std::fputs("{\"prompt\": \"x\"}\n", file.get()) >= 0);
  std::rewind(file.get());
  return file;
}

std::vector<std::size_t> one_to(std::size_t last) {
  std::vector<std::size_t> all(last);
  std::iota(all.begin(), all.end(), std::size_t{1});
  return all;
}

} // namespace

TEST_CASE("a feeder brings what is pulled and no more, in order, and says when it is over") {
  cast::system system;
  const auto file = file_of(100);
  const auto sink = std::make_shared<collector>();
  cast::request_feed feed(system.get(), queue_of(::fileno(file.get())), sink);
  feed.pull(3);
  sink->wait([&] { return sink->lines.size() == 3; });
  CHECK(feed.awaited() == 0);
  feed.pull(97);
  sink->wait([&] { return sink->lines.size() == 100; });
  CHECK_FALSE(sink->ended);
  feed.pull(1);
  sink->wait([&] { return sink->ended; });
  CHECK(sink->lines == one_to(100));
}

TEST_CASE("a feeder that is killed again and again loses and repeats nothing") {
  cast::system system;
  const auto file = file_of(400);
  const auto sink = std::make_shared<collector>();
  cast::request_feed feed(system.get(), queue_of(::fileno(file.get())), sink);
  std::size_t pulled = 0;
  std::size_t kills = 0;
  while (pulled < 400) {
    feed.pull(4);
    pulled += 4;
    if (pulled % 3 != 0) {
      caf::anon_send_exit(feed.feeder(), caf::exit_reason::kill);
      ++kills;
      sink->wait([&] { return sink->gone == kills; });
      feed.pull(4); // nobody hears it, and yet it counts
      pulled += 4;
      feed.replace();
    }
    sink->wait([&] { return sink->lines.size() == std::min<std::size_t>(pulled, 400); });
  }
  CHECK(kills > 20);
  CHECK(sink->lines == one_to(400));
}

TEST_CASE("feeders that end without bringing anything are given up") {
  cast::system system;
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const auto sink = std::make_shared<collector>();
  {
    cast::request_feed feed(system.get(), queue_of(ends[0]), sink);
    std::size_t kills = 0;
    const auto kill_and_replace = [&] {
      caf::anon_send_exit(feed.feeder(), caf::exit_reason::kill);
      ++kills;
      sink->wait([&] { return sink->gone == kills; });
      feed.replace();
    };
    CHECK_THROWS_AS(
        [&] {
          for (;;)
            kill_and_replace();
        }(),
        error);
    CHECK(kills == 9);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a request of a slow pipe comes while the next one is still being written") {
  cast::system system;
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const auto sink = std::make_shared<collector>();
  {
    cast::request_feed feed(system.get(), queue_of(ends[0]), sink);
    const std::string_view line = "{\"prompt\": \"x\"}\n";
    const std::string one_and_a_half = std::string(line) + std::string(line.substr(0, 5));
    REQUIRE(::write(ends[1], one_and_a_half.data(), one_and_a_half.size()) > 0);
    feed.pull(2);
    sink->wait([&] { return sink->lines.size() == 1; });
    REQUIRE(::write(ends[1], line.data() + 5, line.size() - 5) > 0);
    sink->wait([&] { return sink->lines.size() == 2; });
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("an input that can't be read is told") {
  cast::system system;
  const int folder = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(folder >= 0);
  const auto sink = std::make_shared<collector>();
  {
    cast::request_feed feed(system.get(), queue_of(folder), sink);
    feed.pull(1);
    sink->wait([&] { return !sink->failure.empty(); });
    CHECK_THAT(sink->failure, Catch::Contains("can't read the input: Is a directory"));
  }
  ::close(folder);
}
