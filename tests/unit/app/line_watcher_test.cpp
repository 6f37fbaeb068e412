// Lines while something else goes on. A pipe does for the terminal: it, too, has bytes that can be polled for.
#include "app/line_watcher.hpp"

#include <array>
#include <catch2/catch.hpp>
#include <condition_variable>
#include <mutex>
#include <unistd.h>
#include <vector>

using namespace tropilla::app;

namespace {

/// What a watcher's handlers were told, and the pipe that stands for the terminal.
class typist {
public:
  typist() { REQUIRE(::pipe(ends_.data()) == 0); }
  ~typist() {
    ::close(ends_[0]);
    hang_up();
  }
  void type(std::string_view keys) {
    REQUIRE(::write(ends_[1], keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
  }
  void hang_up() {
    if (ends_[1] >= 0)
      ::close(ends_[1]);
    ends_[1] = -1;
  }
  [[nodiscard]] int terminal() const { return ends_[0]; }
  [[nodiscard]] line_watcher::handlers handlers() {
    return {.line = [this](const std::string& line) { note(line); }, .closed = [this] { note("closed"); }};
  }
  /// Waits until that many calls came.
  std::vector<std::string> heard(std::size_t calls) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return heard_.size() >= calls; });
    return heard_;
  }

private:
  void note(const std::string& what) {
    const std::lock_guard lock(mutex_);
    heard_.push_back(what);
    changed_.notify_all();
  }

  std::array<int, 2> ends_{-1, -1};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> heard_;
};

using texts = std::vector<std::string>;

} // namespace

TEST_CASE("a watcher hands lines over as they come") {
  typist person;
  unseen_line unfinished;
  const line_watcher watcher(person.terminal(), "", unfinished, person.handlers());
  person.type("one\n");
  CHECK(person.heard(1) == texts{"one"});
  person.type("two\rthree\n\n"); // Enter in an editor's mode, and an empty line
  CHECK(person.heard(4) == texts{"one", "two", "three", ""});
}

TEST_CASE("the beginning of a line survives the watcher") {
  typist person;
  unseen_line unfinished;
  {
    const line_watcher watcher(person.terminal(), "zero\no", unfinished, person.handlers()); // typed before
    person.type("ne\nha");
    CHECK(person.heard(2) == texts{"zero", "one"});
  }
  person.type("lf\n");
  const line_watcher watcher(person.terminal(), "", unfinished, person.handlers());
  CHECK(person.heard(3) == texts{"zero", "one", "half"});
}

TEST_CASE("a watcher without lines ends when it is destroyed, and what comes later is not read") {
  typist person;
  unseen_line unfinished;
  { const line_watcher watcher(person.terminal(), "", unfinished, person.handlers()); }
  person.type("later\n");
  std::array<char, 6> bytes{};
  CHECK(::read(person.terminal(), bytes.data(), bytes.size()) == 6);
  CHECK(person.heard(0).empty());
}

TEST_CASE("a watcher tells that the terminal is closed, once") {
  typist person;
  unseen_line unfinished;
  const line_watcher watcher(person.terminal(), "", unfinished, person.handlers());
  person.type("one\n");
  CHECK(person.heard(1) == texts{"one"});
  person.hang_up();
  CHECK(person.heard(2) == texts{"one", "closed"});
}

TEST_CASE("a watcher takes Ctrl-D on an empty line for the end, also among keys that came before") {
  typist person;
  unseen_line unfinished;
  person.type("three\n"); // stays in the terminal's queue
  {
    const line_watcher watcher(person.terminal(), "one\n\x04two\n", unfinished, person.handlers());
    CHECK(person.heard(2) == texts{"one", "closed"});
  }
  std::array<char, 6> bytes{};
  CHECK(::read(person.terminal(), bytes.data(), bytes.size()) == 6);
  CHECK(person.heard(2) == texts{"one", "closed"});
}
