// What a terminal gets when lines come while a bar is drawn.
#include "app/terminal.hpp"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <poll.h>
#include <pty.h>
#include <string>
#include <termios.h>
#include <unistd.h>

using namespace tropilla::app;

namespace {

constexpr std::size_t columns = 40;

/// Standard error is a terminal, or a pipe, while this lives.
class caught_errors {
public:
  explicit caught_errors(bool terminal) {
    int write_end = -1;
    if (terminal) {
      winsize size{};
      size.ws_col = columns;
      REQUIRE(::openpty(&read_, &write_end, nullptr, nullptr, &size) == 0);
      termios settings{};
      ::tcgetattr(write_end, &settings);
      ::cfmakeraw(&settings); // line ends as they are written
      ::tcsetattr(write_end, TCSANOW, &settings);
    } else {
      int ends[2];
      REQUIRE(::pipe(ends) == 0);
      read_ = ends[0];
      write_end = ends[1];
    }
    ::setenv("TERM", "xterm", 1);
    saved_ = ::dup(STDERR_FILENO);
    ::dup2(write_end, STDERR_FILENO);
    ::close(write_end);
  }
  ~caught_errors() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    ::close(read_);
  }
  /// The next so many bytes that are written, or those that are there after ten seconds.
  std::string text(std::size_t bytes) const {
    std::string out(bytes, ' ');
    std::size_t got = 0;
    while (got < bytes) {
      pollfd ready{read_, POLLIN, 0};
      const auto n = ::poll(&ready, 1, 10'000) == 1 ? ::read(read_, out.data() + got, bytes - got) : 0;
      if (n <= 0)
        break;
      got += static_cast<std::size_t>(n);
    }
    return out.substr(0, got);
  }

private:
  int read_ = -1, saved_ = -1;
};

const std::string erase = "\r\x1b[K";

} // namespace

TEST_CASE("a line takes the bar away, and the bar comes back below it") {
  caught_errors errors(true);
  status_line place;
  REQUIRE(place.terminal().interactive);
  place.draw("[##  ]");
  place.say("news");
  place.draw("[### ]");
  place.clear();
  place.clear(); // there is none
  place.say("more news");
  const std::string new_line = std::string(columns, ' ') + erase;
  const std::string wanted =
      erase + "[##  ]" + erase + new_line + "news\n" + erase + "[### ]" + erase + new_line + "more news\n";
  CHECK(errors.text(wanted.size()) == wanted);
}

TEST_CASE("where there is no terminal a line is a line") {
  caught_errors errors(false);
  status_line place;
  place.say("news");
  place.say("more");
  CHECK(errors.text(10) == "news\nmore\n");
}
