// Runs many replies at once without a thread for each: submits all, and counts tokens as they come.
//   example_throughput MODEL.gguf [requests] [tokens of each]
#include "tropilla/tropilla.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <string>

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: example_throughput MODEL.gguf [REQUESTS] [TOKENS]\n";
    return 2;
  }
  const std::size_t requests = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 32;
  const std::size_t tokens = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 64;

  // Callbacks come on threads of the runtime, and use these until the last reply has ended.
  std::mutex mutex;
  std::condition_variable ended;
  std::size_t open = requests, came = 0, failed = 0;
  try {
    tropilla::runtime rt({.model = argv[1], .context = 1024, .sequences = 16});
    rt.wait_until_loaded();
    const auto begin = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < requests; ++i) {
      const tropilla::chat_message question{"user", "Tell me " + std::to_string(i + 2) + " things about llamas."};
      tropilla::reply_callbacks calls;
      calls.on_piece = [&](const tropilla::piece& p) {
        const std::lock_guard lock(mutex);
        came += p.id >= 0;
        return true; // false: the client is gone
      };
      const auto end = [&](bool well) {
        const std::lock_guard lock(mutex);
        failed += !well;
        --open;
        ended.notify_one();
      };
      calls.on_finished = [end](const tropilla::generation_statistics&) { end(true); };
      calls.on_failed = [end](const tropilla::error&) { end(false); };
      rt.submit(rt.encode({&question, 1}), {.max_tokens = tokens, .ignore_eos = true}, calls);
    }
    std::unique_lock lock(mutex);
    ended.wait(lock, [&] { return open == 0; });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::cout << requests << " requests, " << failed << " failed, " << came << " tokens in " << took.count()
              << " s: " << static_cast<double>(came) / took.count() << " tok/s\n";
  } catch (const tropilla::error& e) {
    std::cerr << e.what() << "\n";
    return 2;
  }
  return failed == 0 ? 0 : 1;
}
