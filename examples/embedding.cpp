// Opens a model inside a byte budget and streams an answer: the whole library from one program.
//   example_embedding MODEL.gguf "a question" [budget in MiB]
#include "tropilla/tropilla.hpp"

#include <cstdlib>
#include <iostream>

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: example_embedding MODEL.gguf QUESTION [BUDGET_MIB]\n";
    return 2;
  }
  try {
    tropilla::runtime_config config;
    config.model = argv[1];
    config.context = 1024;
    if (argc > 3)
      config.budget_bytes = std::strtoull(argv[3], nullptr, 10) << 20;

    std::cerr << "needs " << (tropilla::runtime::plan(config).total_bytes >> 20) << " MiB\n";
    tropilla::runtime rt(config); // loads in the background from here on

    auto reply = rt.chat({{"user", argv[2]}}, {.max_tokens = 200});
    for (const auto& piece : reply)
      std::cout << piece.text << std::flush;

    const auto& cost = reply.statistics();
    std::cerr << "\n" << cost.generated_tokens << " tokens, " << cost.decode_rate() << " tok/s\n";
  } catch (const tropilla::error& e) {
    std::cerr << e.what() << "\n";
    return 2;
  }
}
