// Writes to standard output and standard error, and draws progress on the latter.
#include "app/terminal.hpp"

#include "app/files.hpp"
#include "app/text.hpp"
#include "memory/bytes.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace tropilla::app {
namespace {

using namespace std::chrono_literals;

bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value;
}

// A person sees 10 changes a second as motion; a log wants a line every few seconds.
constexpr auto bar_interval = 100ms;
constexpr auto line_interval = 2s;
constexpr std::string_view to_line_start_and_clear = "\r\x1b[K";

} // namespace

std::string terminal_facts::paint(std::string_view code, std::string_view text) const {
  return colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

terminal_facts inspect_terminal(int descriptor) {
  terminal_facts facts;
  const char* term = std::getenv("TERM");
  facts.interactive = ::isatty(descriptor) == 1 && term && std::strcmp(term, "dumb") != 0;
  facts.colour = facts.interactive && !is_set("NO_COLOR");
  facts.utf8 = std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
  winsize size{};
  if (facts.interactive && ::ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    facts.width = size.ws_col;
  return facts;
}

std::string fresh_line(std::size_t width) {
  // As many blanks as there are columns: from the start they fill the line, from anywhere else they reach the next.
  // After the last column a terminal goes on to the next line only with one more character.
  return std::string(width, ' ').append(to_line_start_and_clear);
}

void output::claim_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) != -1 || errno != EBADF)
      continue;
    closed_ = closed_ || stream == STDOUT_FILENO;
    const int null = ::open("/dev/null", O_RDWR); // the lowest number that is free, and those below are taken
    static_cast<void>(null);
  }
}

void output::write(std::string_view text) const {
  if (closed_)
    throw error(errc::io_error, "standard output is closed, so that nothing can be written; send it to a file, or to "
                                "/dev/null");
  if (write_all(STDOUT_FILENO, text))
    return;
  if (errno == EPIPE)
    throw output_closed{};
  throw_system_error("write", "standard output", errno);
}

void say(std::string_view line) {
  const bool written = write_all(STDERR_FILENO, std::string(line) + "\n");
  static_cast<void>(written);
}

bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(descriptor, text.data(), text.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

void status_line::draw(std::string_view bar) {
  const std::lock_guard lock(mutex_);
  drawn_ = write_all(STDERR_FILENO, std::string(to_line_start_and_clear).append(bar));
}

void status_line::clear() {
  const std::lock_guard lock(mutex_);
  take_bar_away();
}

void status_line::say(std::string_view line) {
  const std::lock_guard lock(mutex_);
  take_bar_away();
  // In one write: a reply's piece comes before or after, not between. Failures are ignored, since they can't be
  // reported.
  app::say(terminal_.interactive ? fresh_line(inspect_terminal(STDERR_FILENO).width).append(line) : line);
}

void status_line::take_bar_away() {
  if (!std::exchange(drawn_, false))
    return;
  const bool written = write_all(STDERR_FILENO, to_line_start_and_clear);
  static_cast<void>(written);
}

progress::progress(std::string label, unit counted, bool silent, std::shared_ptr<status_line> place)
    : label_(std::move(label)), unit_(counted), silent_(silent), place_(std::move(place)),
      terminal_(place_->terminal()),
      next_(begin_ + (terminal_.interactive ? clock::duration(bar_interval) : clock::duration(line_interval))) {}

progress::~progress() {
  place_->clear();
}

std::string progress::amount(std::uint64_t done, std::uint64_t total) const {
  return unit_ == unit::bytes ? fmt::format("{} of {}", format_bytes(done), format_bytes(total))
                              : fmt::format("{} of {}", done, total);
}

void progress::update(std::uint64_t done, std::uint64_t total, std::string_view words) {
  const std::lock_guard lock(mutex_);
  if (silent_ || finished_)
    return;
  done_ = done;
  total_ = total;
  const auto now = clock::now();
  if (now < next_)
    return;
  next_ = now + (terminal_.interactive ? clock::duration(bar_interval) : clock::duration(line_interval));
  draw(done, total, words);
}

void progress::draw(std::uint64_t done, std::uint64_t total, std::string_view words) {
  const double part = total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 0.0;
  const std::string numbers =
      fmt::format("{:3.0f}%  {}{}{}", part * 100, amount(done, total), words.empty() ? "" : "  ", words);
  if (!terminal_.interactive) {
    place_->say(fmt::format("{}: {}", label_, numbers));
    return;
  }
  const std::string label = shorten(label_, terminal_.width / 3);
  const std::size_t taken = display_width(label) + numbers.size() + 5;
  const std::size_t cells = terminal_.width > taken ? std::min<std::size_t>(terminal_.width - taken, 40) : 0;
  const auto full = static_cast<std::size_t>(part * static_cast<double>(cells));
  std::string bar;
  for (std::size_t i = 0; i < cells; ++i)
    bar += i < full ? (terminal_.utf8 ? "█" : "#") : (terminal_.utf8 ? "░" : ".");
  place_->draw(fmt::format("{}  {}  {}", label, terminal_.green(bar), numbers));
}

void progress::finish() {
  const std::lock_guard lock(mutex_);
  if (silent_ || finished_)
    return;
  finished_ = true;
  place_->clear();
  if (!terminal_.interactive && total_ > 0 && done_ >= total_) {
    const std::chrono::duration<double> seconds = clock::now() - begin_;
    place_->say(fmt::format("{}: {} in {:.2f} s", label_,
                            unit_ == unit::bytes ? format_bytes(total_) : fmt::format("{}", total_), seconds.count()));
  }
}

} // namespace tropilla::app
