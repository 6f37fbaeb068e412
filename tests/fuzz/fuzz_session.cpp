// Any bytes as a saved session: it is read to its last page, or one `error` says what is wrong with it. The first byte
// says which fields of the header are made right before, which no fuzzer would guess: 1 the length of the file, 2 the
// checksum of the texts, 4 the header's own.
#include "src/io/session_file.hpp"
#include "tropilla/error.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>
#include <xxhash.h>

using namespace tropilla;

namespace {

void require(bool holds) {
  if (!holds)
    std::abort();
}

void mend(std::vector<std::byte>& file, unsigned what) {
  session_header h{};
  if (file.size() < sizeof h)
    return;
  std::memcpy(&h, file.data(), sizeof h);
  if (what & 1)
    h.file_bytes = file.size();
  const std::size_t room = file.size() - sizeof h;
  const bool fits = h.tokens <= room / sizeof(token_id) && h.name_bytes <= room && h.note_bytes <= room;
  const std::size_t texts = fits ? h.tokens * sizeof(token_id) + h.name_bytes + h.note_bytes : 0;
  if ((what & 2) && fits && texts <= room)
    h.text_checksum = XXH64(file.data() + sizeof h, texts, 1);
  if (what & 4) {
    h.checksum = 0;
    h.checksum = XXH64(&h, sizeof h, 0);
  }
  std::memcpy(file.data(), &h, sizeof h);
}

/// A file in memory under a path.
class memory_file {
public:
  explicit memory_file(const std::vector<std::byte>& bytes) : descriptor_(::memfd_create("session", MFD_CLOEXEC)) {
    require(descriptor_ >= 0);
    for (std::size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
      require(n > 0);
      done += static_cast<std::size_t>(n);
    }
  }
  ~memory_file() { ::close(descriptor_); }
  memory_file(const memory_file&) = delete;
  memory_file& operator=(const memory_file&) = delete;
  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

private:
  int descriptor_;
};

void read_all(const std::string& path, std::size_t size) {
  const session_reader r(path);
  const session_facts& facts = r.facts();
  require(facts.page_offset(facts.pages()) == size);
  require(r.tokens().size() == facts.tokens && r.note().size() == facts.note_bytes);
  r.require(facts.shape, "");
  if (facts.pages() == 0)
    return; // a page may have any size then
  std::vector<std::byte> page(facts.shape.page_bytes());
  for (std::size_t i = 0; i < facts.pages(); ++i)
    r.read_page(i, page);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0)
    return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  std::vector<std::byte> file(bytes.begin(), bytes.end());
  mend(file, data[0]);
  const memory_file place(file);
  try {
    read_all(place.path(), file.size());
  } catch (const error& e) {
    require(e.code() == errc::malformed_file || e.code() == errc::unsupported);
  }
  return 0;
}
