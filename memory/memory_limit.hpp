/// Finds out how much memory this process may still take, what limits it, and how much of that an arbiter may have.
#pragma once

#include "memory/control_groups.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

namespace tropilla {

inline constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

/// The system's files that describe memory. Tests point it at files of their own.
struct memory_source {
  std::filesystem::path proc = "/proc"; ///< meminfo, self/status, self/limits, sys/vm/overcommit_memory
  control_group_source groups{};
};

/// One limit on the process's memory.
struct memory_bound {
  enum class counts : std::uint8_t {
    written, ///< memory, from when it is first written
    mapped,  ///< addresses, from when they are mapped
  };
  counts what = counts::written;
  std::size_t all = 0;  ///< bytes, used or not
  std::size_t left = 0; ///< bytes that the process may still take
  std::string who;      ///< "the memory limit of 200.0 MiB of the control group /sys/fs/cgroup/a"
  std::size_t swap = 0; ///< bytes beyond `left` that the machine has on its disk
};

/// The system's figures at one moment.
struct memory_reading {
  std::vector<memory_bound> bounds; ///< none of what limits nothing or can't be read
  std::size_t anonymous = 0;        ///< bytes that the process has written and holds; 0: unknown
  std::size_t machine = unlimited;  ///< all memory of the machine, and its swap
  std::size_t thread_stack = 0;     ///< bytes of address space that a thread's stack takes
};

/// Reads the machine's available memory, the limits of the process's control groups (both versions, those above
/// included, less what the group uses and could not give back), RLIMIT_AS and RLIMIT_DATA (less what is mapped) and,
/// where the kernel never promises more than it has (overcommit_memory 2), what it can still promise. Finds the groups
/// once. What is malformed or absent limits nothing. Any thread.
class memory_reader {
public:
  explicit memory_reader(memory_source source = {});
  [[nodiscard]] memory_reading read() const;

private:
  memory_source source_;
  std::vector<control_group> groups_;
};

/// Memory that a program takes besides its arbiter, counted from when the limit is read.
struct program_needs {
  std::size_t written = 0;
  std::size_t mapped = 0;
};

/// The needs of a runtime for a vocabulary of so many tokens: the heap, the vocabulary, the threads' stacks, page
/// tables, and memory that the kernel keeps per thread and core. A program that has its own needs adds them.
[[nodiscard]] program_needs needs_of_runtime(std::size_t vocabulary, std::size_t thread_stack);

/// The bytes that an arbiter may have.
struct memory_limit {
  std::size_t bytes = unlimited;
  std::string set_by;                ///< `memory_bound::who`, of the tightest; empty: nothing is known
  std::size_t addresses = unlimited; ///< that its reservation may have
  std::size_t machine = unlimited;   ///< as `memory_reading::machine`
};

/// The tightest of the bounds, less what the program needs. The pool takes an eighth more addresses than it holds
/// bytes.
[[nodiscard]] memory_limit limit_of(const memory_reading& reading, const program_needs& needs);

/// The smallest reservation for a pool of `bytes`: a pool that is filled to its last byte can't find the last block.
[[nodiscard]] std::size_t min_reservation(std::size_t bytes) noexcept;

} // namespace tropilla
