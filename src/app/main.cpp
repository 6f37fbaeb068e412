// The program: sets the process up, then hands over to the commands.
#include "src/app/command.hpp"

#include <clocale>
#include <csignal>
#include <cstring>
#include <exception>
#include <fmt/format.h>
#include <langinfo.h>

namespace {

/// A container often has no LANG; text is UTF-8 there all the same.
void choose_locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(::nl_langinfo(CODESET), "UTF-8") != 0)
    std::setlocale(LC_CTYPE, "C.UTF-8");
}

} // namespace

int main(int argc, char** argv) {
  const tropilla::app::process_clock clock;
  try {
    choose_locale();
    std::signal(SIGPIPE, SIG_IGN); // writes report it, and the command ends in order
    tropilla::app::output out;
    out.claim_standard_streams(); // before anything is opened
    tropilla::app::interrupts signals;
    tropilla::app::surroundings around{.clock = clock, .signals = signals, .out = out};
    return tropilla::app::run_program(std::vector<std::string>(argv + 1, argv + argc), around);
  } catch (const std::exception& e) {
    tropilla::app::say(fmt::format("tropilla: {}", e.what()));
    return 2;
  }
}
