// The program: sets the process up, then hands over to the commands.
#include "app/command.hpp"
#include "app/process.hpp"

#include <chrono>
#include <clocale>
#include <csignal>
#include <cstring>
#include <exception>
#include <fmt/format.h>
#include <langinfo.h>
#include <new>
#include <thread>
#include <utility>

namespace {

/// Chooses a locale with UTF-8: a container often has no LANG, and text is UTF-8 there all the same.
void choose_locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0)
    std::setlocale(LC_CTYPE, "C.UTF-8");
}

/// `new` calls this where the system refuses memory. It tries again for a second, since others may give some back;
/// then, and as long as memory is refused, it throws `std::bad_alloc`. So the exception seldom reaches libraries that
/// do not survive it.
void wait_for_memory() {
  using clock = std::chrono::steady_clock;
  constexpr std::chrono::seconds patience{1};
  constexpr std::chrono::milliseconds pause{1};
  thread_local clock::time_point began, last;
  const auto now = clock::now();
  if (now - std::exchange(last, now) > 50 * pause)
    began = now; // another allocation, after others that succeeded
  if (now - began > patience)
    throw std::bad_alloc();
  std::this_thread::sleep_for(pause);
}

} // namespace

int main(int argc, char** argv) {
  const tropilla::app::process_clock clock;
  std::set_new_handler(wait_for_memory);
  tropilla::app::spare_address_space();
  try {
    tropilla::app::check_stack_limit();
    choose_locale();
    // Writes report these, and the command ends in order.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    tropilla::app::output out;
    out.claim_standard_streams(); // before anything is opened
    tropilla::app::interrupts signals;
    tropilla::app::command_context env{.clock = clock, .signals = signals, .out = out};
    return tropilla::app::run_program(std::vector<std::string>(argv + 1, argv + argc), env);
  } catch (const std::exception& e) {
    tropilla::app::say(fmt::format("tropilla: {}", e.what()));
    return 2;
  }
}
