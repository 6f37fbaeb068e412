/// Makes threads, and errors where the system refuses them: by limits of the user (`ulimit -u`), of the container
/// (`pids.max`), or of memory for their stacks (`ulimit -v`).
#pragma once

#include <cstddef>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

namespace tropilla {

/// Throws `error` (io_error) with a sentence that says what to do. `what_for`: "computing".
[[noreturn]] void throw_no_thread(std::string_view what_for, const std::system_error& why);

/// A thread that runs `f`. Throws as `throw_no_thread`.
template <class F>
[[nodiscard]] std::jthread start_thread(std::string_view what_for, F f) {
  try {
    return std::jthread(std::move(f));
  } catch (const std::system_error& e) {
    throw_no_thread(what_for, e);
  }
}

/// Starts so many threads at once and ends them, to find out whether the system allows them: for libraries that do not
/// survive the refusal of one. Throws as `throw_no_thread`, and `std::bad_alloc`. Other processes may take them before
/// they are asked for again.
void require_threads(std::size_t count, std::string_view what_for);

} // namespace tropilla
