// Any bytes as a GGUF header: it parses and its hyper-parameters are read, or one `error` says why not.
#include "src/model/llama_config.hpp"
#include "tropilla/error.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tropilla;
  // Room behind the header, so that the tensors of an input without data can lie in the file; and a file to read
  // `rope_freqs` from that gives bytes anywhere.
  constexpr std::uint64_t room = std::uint64_t{1} << 20;
  try {
    const gguf_file file = gguf_file::parse(std::as_bytes(std::span(data, size)), size + room, "/dev/zero");
    for (const gguf_tensor& t : file.tensors)
      if (t.bytes > size + room || t.offset > size + room - t.bytes)
        std::abort();
    const llama_config config = llama_config::read(file);
    if (config.layer_sources.size() != config.layers || config.attention.heads % config.attention.kv_heads != 0)
      std::abort();
  } catch (const error&) {
    return 0;
  }
  return 0;
}
