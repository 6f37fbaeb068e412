// Runs a block's threads as contexts that take turns on one thread of the processor.
#include "kernels/cuda/emulation.hpp"

#include "kernels/cuda/cuda_kernels.hpp"

#include <array>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <ucontext.h>
#include <utility>
#include <vector>

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): kernels reach CUDA's state without a handle.
namespace tropilla::cuda_emulated::emulation {
namespace {

constexpr std::size_t stack_bytes = std::size_t{64} * 1024;
constexpr unsigned warp = 32;

using group = std::vector<std::function<void()>>;

struct started_work {
  group open;
  std::deque<group> groups;
};

enum class state : std::uint8_t { runs, at_block, at_warp, ended };

/// The place at which a stack goes on. `swapcontext` has the system exchange signal masks, which took most of the time
/// of an emulated kernel, and sanitizers stop what `longjmp` does between stacks.
struct jump_place {
  void* words[5] = {};
};

struct context {
  ucontext_t registers{}; ///< to begin with
  bool begun = false;
  jump_place resume;
  std::unique_ptr<std::byte[]> stack = std::make_unique<std::byte[]>(stack_bytes);
  place where;
  state now = state::runs;
  std::size_t exchanges = 0;
  std::array<started_work, 2> work; ///< by `started`
};

/// A block whose threads take turns. One at a time in a process, since what the threads share is static memory.
class block {
public:
  block(dim3 grid, dim3 index, unsigned threads, const std::function<void()>& job, std::vector<context>& contexts)
      : job_(job), contexts_(contexts), given_{std::vector<words>(threads), std::vector<words>(threads)} {
    for (unsigned t = 0; t < threads; ++t) {
      auto& c = contexts_[t];
      c.where = {dim3(t), index, dim3(threads), grid};
      c.now = state::runs;
      c.exchanges = 0;
      c.work = {};
      c.begun = false;
      getcontext(&c.registers);
      c.registers.uc_stack.ss_sp = c.stack.get();
      c.registers.uc_stack.ss_size = stack_bytes;
      makecontext(&c.registers, &block::enter, 0);
    }
  }

  void run() {
    running = this;
    while (turn_of_all())
      pass_barriers();
    running = nullptr;
  }

  [[nodiscard]] const place& current() const noexcept { return contexts_[turn_].where; }

  void wait(state at) {
    auto& c = contexts_[turn_];
    c.now = at;
    leave_turn(c);
  }

  const words* exchange(const words& mine) {
    // Exchanges alternate between two places: no lane gives into one of them again before all have taken from it, and
    // so have come to the exchange after.
    auto& place = given_[contexts_[turn_].exchanges++ % 2];
    place[turn_] = mine;
    wait(state::at_warp);
    return &place[turn_ / warp * warp];
  }

  [[nodiscard]] started_work& work(started kind) noexcept {
    return contexts_[turn_].work[static_cast<std::size_t>(kind)];
  }

  static block* running;

private:
  static void enter() {
    running->job_();
    running->contexts_[running->turn_].now = state::ended;
    go_on(running->scheduler_);
  }

  // A jump and its place must not be in one function.
  [[gnu::noinline, noreturn]] static void go_on(jump_place& at) { __builtin_longjmp(at.words, 1); }
  [[gnu::noinline]] void leave_turn(context& c) {
    if (__builtin_setjmp(c.resume.words) == 0)
      go_on(scheduler_);
  }
  [[gnu::noinline]] void give_turn(context& c) {
    if (__builtin_setjmp(scheduler_.words) != 0)
      return;
    if (c.begun)
      go_on(c.resume);
    c.begun = true;
    setcontext(&c.registers);
  }

  [[nodiscard]] std::size_t threads() const noexcept { return given_[0].size(); }

  /// Lets every thread run that can; false when none is left.
  bool turn_of_all() {
    bool left = false;
    for (turn_ = 0; turn_ < threads(); ++turn_)
      if (contexts_[turn_].now == state::runs) {
        give_turn(contexts_[turn_]);
        left = left || contexts_[turn_].now != state::ended;
      } else {
        left = left || contexts_[turn_].now != state::ended;
      }
    return left;
  }

  void pass_barriers() {
    bool passed = false;
    for (std::size_t first = 0; first < threads(); first += warp)
      passed = release(first, std::min(first + warp, threads()), state::at_warp) || passed;
    passed = release(0, threads(), state::at_block) || passed;
    if (!passed)
      throw std::logic_error("threads of a block wait for each other at different barriers");
  }

  /// Lets a range of threads go on when all of them wait at such a barrier; those that have ended don't count.
  bool release(std::size_t first, std::size_t last, state at) {
    bool any = false;
    for (std::size_t t = first; t < last; ++t) {
      if (contexts_[t].now != at && contexts_[t].now != state::ended)
        return false;
      any = any || contexts_[t].now == at;
    }
    for (std::size_t t = first; any && t < last; ++t)
      if (contexts_[t].now == at)
        contexts_[t].now = state::runs;
    return any;
  }

  const std::function<void()>& job_;
  std::vector<context>& contexts_;
  std::array<std::vector<words>, 2> given_;
  jump_place scheduler_;
  std::size_t turn_ = 0;
};

block* block::running = nullptr;

} // namespace

const place& current() noexcept {
  return block::running->current();
}
void wait_for_block() {
  block::running->wait(state::at_block);
}
const words* exchange(const words& mine) {
  return block::running->exchange(mine);
}

static bool copies_come_early = false;

void start(started kind, std::function<void()> work) {
  if (kind == started::copies && copies_come_early)
    return work();
  block::running->work(kind).open.push_back(std::move(work));
}
void end_group(started kind) {
  auto& work = block::running->work(kind);
  work.groups.push_back(std::exchange(work.open, {}));
}
void wait_for_groups(started kind, unsigned pending) {
  auto& groups = block::running->work(kind).groups;
  for (; groups.size() > pending; groups.pop_front())
    for (const auto& work : groups.front())
      work();
}

namespace {
thread_local void* kept_stream = nullptr;
thread_local kept_work* kept = nullptr;
} // namespace

void keep(void* stream, kept_work* to) {
  kept_stream = stream;
  kept = to;
}

void run_or_keep(void* stream, std::function<void()> work) {
  if (kept != nullptr && stream == kept_stream)
    kept->push_back(std::move(work));
  else
    work();
}

void run(dim3 grid, unsigned threads, const std::function<void()>& thread) {
  static std::mutex one_block_at_a_time; // of a process: what a block shares is static
  static std::vector<context> contexts;
  const std::lock_guard lock(one_block_at_a_time);
  if (contexts.size() < threads)
    contexts.resize(threads);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x)
        block(grid, dim3(x, y, z), threads, thread, contexts).run();
}

} // namespace tropilla::cuda_emulated::emulation

namespace tropilla::cuda_emulated {
void let_copies_come_early(bool early) {
  emulation::copies_come_early = early;
}
} // namespace tropilla::cuda_emulated
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)
