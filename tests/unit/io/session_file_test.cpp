// Sessions on the disk: there and back, and every kind of damage.
#include "src/io/session_file.hpp"

#include "tests/support/tiny_model.hpp"
#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <unistd.h>
#include <xxhash.h>

using namespace tropilla;

namespace {

session_shape small_shape() {
  session_shape s;
  s.model = {11, 22};
  s.layers = 2;
  s.kv_heads = 1;
  s.key_size = 2;
  s.value_size = 3;
  return s;
}

std::vector<token_id> numbers(std::size_t n) {
  std::vector<token_id> out(n);
  std::iota(out.begin(), out.end(), 100);
  return out;
}

std::vector<std::byte> page_of(const session_shape& shape, unsigned seed) {
  std::vector<std::byte> out(shape.page_bytes());
  std::mt19937 random(seed);
  for (auto& b : out)
    b = static_cast<std::byte>(random());
  return out;
}

std::filesystem::path place(const char* name) {
  return testing::scratch() / name;
}

/// 40 tokens on two pages.
std::filesystem::path saved(const char* name) {
  const auto shape = small_shape();
  session_writer w(place(name), shape, numbers(40), "a model", "a note");
  w.add_page(page_of(shape, 1));
  w.add_page(page_of(shape, 2));
  w.commit();
  return place(name);
}

std::vector<char> bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void write_bytes(const std::filesystem::path& path, std::span<const char> bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// Reads everything that a file has.
void read_all(const std::filesystem::path& path) {
  const session_reader r(path);
  std::vector<std::byte> page(r.facts().shape.page_bytes());
  for (std::size_t i = 0; i < r.facts().pages(); ++i)
    r.read_page(i, page);
}

std::string refusal_of(const std::filesystem::path& path) {
  try {
    read_all(path);
  } catch (const error& e) {
    return e.what();
  }
  return "";
}

/// The file with a change to its header, whose checksum is right again.
void write_with(const std::filesystem::path& path, std::vector<char> bytes,
                const std::function<void(session_header&)>& change) {
  session_header h;
  std::memcpy(&h, bytes.data(), sizeof h);
  change(h);
  h.checksum = 0;
  h.checksum = XXH64(&h, sizeof h, 0);
  std::memcpy(bytes.data(), &h, sizeof h);
  write_bytes(path, bytes);
}

std::size_t files_in(const std::filesystem::path& folder) {
  const std::filesystem::directory_iterator it(folder);
  return static_cast<std::size_t>(std::distance(begin(it), end(it)));
}

} // namespace

TEST_CASE("a session comes back as it was saved") {
  const session_reader r(saved("whole.session"));
  CHECK(r.tokens() == numbers(40));
  CHECK(r.note() == "a note");
  CHECK(r.facts().pages() == 2);
  std::vector<std::byte> page(small_shape().page_bytes());
  for (unsigned i = 0; i < 2; ++i) {
    r.read_page(i, page);
    CHECK(page == page_of(small_shape(), i + 1));
  }
  CHECK_NOTHROW(r.require(small_shape(), "a model"));
}

TEST_CASE("a session without tokens has no pages") {
  session_writer(place("empty.session"), small_shape(), {}, "m", "").commit();
  const session_reader r(place("empty.session"));
  CHECK(r.tokens().empty());
  CHECK(r.facts().pages() == 0);
}

TEST_CASE("a session for another model, type or arithmetic is refused with what differs") {
  const session_reader r(saved("foreign.session"));
  auto shape = small_shape();
  shape.model.low = 23;
  CHECK_THROWS_WITH(r.require(shape, "another"), Catch::Contains("with the model \"a model\", not with \"another\""));
  CHECK_THROWS_WITH(r.require(shape, "a model"), Catch::Contains("other weights"));
  shape = small_shape();
  shape.type = kv_type::q8_0;
  CHECK_THROWS_WITH(r.require(shape, "a model"), Catch::Contains("open it for f16"));
  shape = small_shape();
  shape.precise = true;
  CHECK_THROWS_WITH(r.require(shape, "a model"), Catch::Contains("without float32 activations"));
}

TEST_CASE("a file that ends early anywhere, or goes on, is refused") {
  const auto whole = bytes_of(saved("cut.session"));
  for (std::size_t n = 0; n < whole.size(); ++n) {
    write_bytes(place("cut.session"), std::span(whole).first(n));
    if (refusal_of(place("cut.session")).empty())
      FAIL_CHECK("taken with " << n << " bytes");
  }
  auto longer = whole;
  longer.push_back(0);
  write_bytes(place("cut.session"), longer);
  CHECK_THAT(refusal_of(place("cut.session")), Catch::Contains("was saved with"));
  write_bytes(place("cut.session"), whole);
  CHECK(refusal_of(place("cut.session")).empty());
}

TEST_CASE("every byte that changes is noticed") {
  const auto whole = bytes_of(saved("flipped.session"));
  std::mt19937 random(5);
  REQUIRE(whole.size() > 1000);
  for (std::size_t at = 0; at < whole.size(); ++at) {
    auto changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ (1 << random() % 8));
    write_bytes(place("flipped.session"), changed);
    if (refusal_of(place("flipped.session")).empty())
      FAIL_CHECK("byte " << at);
  }
}

TEST_CASE("lengths that lie are refused before anything is allocated for them, also under a right checksum") {
  const auto whole = bytes_of(saved("lying.session"));
  const auto path = place("lying.session");
  constexpr std::uint64_t huge = ~std::uint64_t{0};
  const std::vector<std::function<void(session_header&)>> lies{
      [](auto& h) { h.tokens = huge; },
      [](auto& h) { h.tokens = 1 << 20; },
      [](auto& h) { h.tokens = 30; },
      [](auto& h) { h.name_bytes = huge; },
      [](auto& h) { h.note_bytes = huge - 100; },
      [](auto& h) { h.note_bytes += 1; },
      [](auto& h) { h.page_bytes = 0; },
      [](auto& h) { h.layers = 0; },
      [](auto& h) { h.layers = ~std::uint32_t{0}; },
      [](auto& h) { h.key_size = 1 << 16, h.value_size = 1 << 16, h.kv_heads = 1 << 16, h.layers = 1 << 16; },
      [](auto& h) { h.kv_type = 3; },
      [](auto& h) { h.page_tokens = 16; },
      [](auto& h) { h.precise = 7; },
      [](auto& h) { h.version = 2; },
      [](auto& h) { h.file_bytes = huge; },
  };
  for (std::size_t i = 0; i < lies.size(); ++i) {
    write_with(path, whole, lies[i]);
    if (refusal_of(path).size() < 20)
      FAIL_CHECK("lie " << i);
  }
  // Any header at all: it is refused, or what it says fits the file.
  std::mt19937_64 random(9);
  for (int i = 0; i < 20000; ++i) {
    session_header h;
    std::memcpy(&h, whole.data(), sizeof h);
    auto* const words = reinterpret_cast<std::uint32_t*>(&h);
    for (int change = 0; change < 3; ++change)
      words[4 + random() % (sizeof h / 4 - 4)] = static_cast<std::uint32_t>(random() >> random() % 64);
    h.checksum = 0;
    h.checksum = XXH64(&h, sizeof h, 0);
    try {
      const auto facts = parse_session_header(std::as_bytes(std::span(&h, 1)), whole.size(), "x");
      CHECK(facts.page_offset(facts.pages()) == whole.size());
    } catch (const error& e) {
      CHECK((e.code() == errc::malformed_file || e.code() == errc::unsupported));
    }
  }
}

TEST_CASE("what is no session, and what can't be opened, is said to be so") {
  write_bytes(place("text"), std::string_view("hello, this is a text and no session at all, however long it may be. "));
  CHECK_THAT(refusal_of(place("text")), Catch::Contains("is no saved session"));
  CHECK_THAT(refusal_of(place("absent")), Catch::Contains("No such file"));
  CHECK_THAT(refusal_of(testing::scratch()), Catch::Contains("no regular file"));
  CHECK_THROWS_WITH(session_writer(testing::scratch(), small_shape(), {}, "m", ""), Catch::Contains("no regular file"));
  CHECK_THROWS_WITH(session_writer(place("no/folder"), small_shape(), {}, "m", ""), Catch::Contains("No such file"));
}

TEST_CASE("a session that is not committed leaves what was there, and nothing beside it") {
  const auto path = saved("kept.session");
  const auto before = bytes_of(path);
  const std::size_t files = files_in(testing::scratch());
  const int unnamed = open_unnamed(testing::scratch(), file_in_place::owner_only);
  {
    session_writer w(path, small_shape(), numbers(3), "m", "other");
    // A program that is killed now leaves nothing, where the file system knows files without a name.
    CHECK(files_in(testing::scratch()) == files + (unnamed < 0 ? 1 : 0));
  }
  ::close(unnamed);
  CHECK(bytes_of(path) == before);
  CHECK(files_in(testing::scratch()) == files);
}

TEST_CASE("a session's texts have a limit, when it is saved and when it is read") {
  const std::string note(max_session_texts, 'n');
  const auto path = saved("texts.session");
  CHECK_THROWS_WITH(session_writer(path, small_shape(), {}, "m", note), Catch::Contains("at most 16777216 bytes"));
  // As a program without the limit would write it; the file's bytes are there, and none is read.
  const auto huge = place("huge.session");
  const std::uint64_t more = max_session_texts + 8;
  write_with(huge, bytes_of(path), [&](session_header& h) {
    h.note_bytes += more;
    h.file_bytes += more;
  });
  std::filesystem::resize_file(huge, std::filesystem::file_size(huge) + more);
  CHECK_THAT(refusal_of(huge), Catch::Contains("bytes of tokens and texts, and at most 16777216 are read"));
}
