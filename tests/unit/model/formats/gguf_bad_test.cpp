// Files that are damaged, hostile or something else: each gives one error, and no allocation beyond what it justifies.
#include "src/model/gguf.hpp"
#include "src/model/llama_config.hpp"

#include "memory/bytes.hpp"
#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <sys/stat.h>

using namespace tropilla;
using namespace tropilla::testing;

namespace {

/// What parsing and reading the hyper-parameters gives; allocations are held to the size of the header.
outcome attempt(std::span<const std::byte> header, std::uint64_t file_bytes) {
  const allocation_watch watch;
  outcome o = outcome_of([&] { (void)llama_config::read(gguf_file::parse(header, file_bytes, "test.gguf")); });
  // An entry of the parsed form takes some times its bytes in the file; messages and first nodes take a little.
  REQUIRE(watch.largest() <= 16 * header.size() + 4096);
  return o;
}

outcome attempt(const small_model& m) {
  const auto bytes = m.file();
  return attempt(bytes, bytes.size());
}

void check_refused(const small_model& m, errc code, std::string_view words) {
  const outcome o = attempt(m);
  INFO(o.message);
  CHECK(o.code == code);
  CHECK(o.message.find(words) != std::string::npos);
}

template <class T>
void append(std::vector<std::byte>& out, T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

/// The header of an array value: element type and count.
small_model::put array_header(std::uint32_t element_type, std::uint64_t count, std::size_t element_bytes = 0) {
  return [=](gguf_builder& b, const std::string& key) {
    std::vector<std::byte> bytes;
    append(bytes, element_type);
    append(bytes, count);
    bytes.resize(bytes.size() + element_bytes);
    b.put_raw(key, 9, bytes);
  };
}

} // namespace

TEST_CASE("a header truncated at any byte is refused") {
  const small_model m;
  const auto header = m.header();
  // The padding before the data is no loss by itself: then it is the tensors that are missing.
  for (std::size_t n = 0; n < header.size(); ++n) {
    const outcome o = attempt(std::span(header).first(n), n);
    INFO("first " << n << " bytes: " << o.message);
    REQUIRE(o.code == errc::malformed_file);
    REQUIRE(o.message.find("test.gguf") != std::string::npos);
  }
}

TEST_CASE("data truncated at any byte is refused") {
  const small_model m;
  const auto bytes = m.file();
  CHECK_FALSE(attempt(bytes, bytes.size()).code.has_value());
  for (std::size_t n = m.header().size(); n < bytes.size(); ++n) {
    const outcome o = attempt(m.header(), n);
    REQUIRE(o.code == errc::malformed_file);
    REQUIRE(o.message.find("truncated") != std::string::npos);
  }
}

TEST_CASE("any byte of a header may be anything") {
  const small_model m;
  const auto good = m.header();
  const std::uint64_t file_bytes = m.file().size();
  auto bad = good;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const unsigned value : {0x00U, 0x01U, 0x09U, 0x20U, 0x7FU, 0x80U, 0xFFU}) {
      bad[i] = static_cast<std::byte>(value);
      (void)attempt(bad, file_bytes);
    }
    bad[i] = good[i];
  }
}

TEST_CASE("any eight bytes of a header may be an enormous number") {
  const small_model m;
  const auto good = m.header();
  const std::uint64_t file_bytes = m.file().size();
  for (std::size_t i = 4; i + sizeof(std::uint64_t) <= good.size(); ++i)
    for (const std::uint64_t value : {~std::uint64_t{0}, std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
                                      std::uint64_t{1} << 32, std::uint64_t{1} << 31, file_bytes, file_bytes - i}) {
      auto bad = good;
      std::memcpy(bad.data() + i, &value, sizeof(value));
      (void)attempt(bad, file_bytes);
    }
}

TEST_CASE("counts that the file can't hold are refused before anything is allocated") {
  const auto header = small_model().header();
  constexpr std::size_t tensors_at = 8;
  constexpr std::size_t entries_at = 16;
  constexpr std::size_t key_length_at = 24;
  for (const std::size_t at : {tensors_at, entries_at, key_length_at})
    for (const std::uint64_t value : {~std::uint64_t{0}, std::uint64_t{1} << 61, std::uint64_t{header.size()}}) {
      auto bad = header;
      std::memcpy(bad.data() + at, &value, sizeof(value));
      const outcome o = attempt(bad, header.size());
      INFO(o.message);
      CHECK(o.code == errc::malformed_file);
      CHECK_THAT(o.message, Catch::Contains(at == key_length_at ? format_bytes(value) : std::to_string(value)));
    }
  check_refused(small_model().with("a", array_header(4, std::uint64_t{1} << 62)), errc::malformed_file,
                "array elements");
  check_refused(small_model().with("a", array_header(8, std::uint64_t{1} << 61)), errc::malformed_file,
                "array elements");
  check_refused(small_model().with("zzz", array_header(7, 1000000)), errc::malformed_file, "array elements");
}

TEST_CASE("arrays that no model has are refused") {
  check_refused(small_model().with("a", array_header(9, 1, 12)), errc::unsupported, "array of arrays");
  check_refused(small_model().with("a", array_header(13, 1, 8)), errc::malformed_file, "unknown type 13");
  constexpr std::size_t enormous = (std::size_t{1} << 22) + 1;
  check_refused(small_model().with("a", array_header(0, enormous, enormous)), errc::unsupported, "4194305");
  check_refused(small_model().with("a", array_header(7, 1, 0)).with("b", "x"), errc::malformed_file, "");
}

TEST_CASE("values that the format does not know are refused") {
  const auto raw = [](std::uint32_t type, std::initializer_list<unsigned> bytes) -> small_model::put {
    std::vector<std::byte> value;
    for (const unsigned b : bytes)
      value.push_back(static_cast<std::byte>(b));
    return [type, value](gguf_builder& b, const std::string& key) { b.put_raw(key, type, value); };
  };
  check_refused(small_model().with("a", raw(13, {0})), errc::malformed_file, "unknown type 13");
  check_refused(small_model().with("a", raw(7, {2})), errc::malformed_file, "flag");
  check_refused(small_model().with("", 1U), errc::malformed_file, "key of 0 bytes");
  check_refused(small_model().with(std::string(65536, 'k'), 1U), errc::malformed_file, "65536");
}

TEST_CASE("alignments that are no power of two are refused") {
  for (const std::uint32_t alignment : {0U, 3U, 48U, 0xFFFFFFFFU})
    check_refused(small_model().with("general.alignment", alignment), errc::malformed_file, "power of two");
  check_refused(small_model().with("general.alignment", "32"), errc::malformed_file, "general.alignment");
  CHECK(attempt(small_model().with("general.alignment", 0x80000000U)).code == errc::malformed_file);
}

TEST_CASE("what is there twice is refused") {
  const auto twice = [](gguf_builder& b, const std::string& key) {
    b.put_u32(key, 1);
    b.put_u32(key, 1);
  };
  check_refused(small_model().with("llama.block_count", twice), errc::malformed_file,
                "\"llama.block_count\" is there twice");
  check_refused(small_model().with_tensor("blk.0.attn_q.weight", tensor_type::q4_0, {32, 32}), errc::malformed_file,
                "\"blk.0.attn_q.weight\" is there twice");
}

TEST_CASE("tensors whose shape no file can have are refused") {
  const auto shaped = [](std::vector<std::uint64_t> shape, std::uint32_t type = 2) {
    small_model m;
    m.at("blk.1.attn_k.weight").shape = std::move(shape);
    m.at("blk.1.attn_k.weight").type = type;
    m.at("blk.1.attn_k.weight").offset = 0;
    return m;
  };
  constexpr std::uint64_t big = std::uint64_t{1} << 33;
  check_refused(shaped({32, 0}), errc::malformed_file, "dimension of zero");
  check_refused(shaped({32, 1, 1, 1, 1}), errc::malformed_file, "5 dimensions");
  check_refused(shaped({33, 16}), errc::malformed_file, "block of 32");
  check_refused(shaped({big, big}), errc::malformed_file, "too large");
  check_refused(shaped({big, big, big, big}), errc::malformed_file, "too large");
  // 2^62 values fit 64 bits and their bytes do not.
  check_refused(shaped({std::uint64_t{1} << 31, std::uint64_t{1} << 31}, 0), errc::malformed_file, "too large");
  check_refused(shaped({~std::uint64_t{0} - 31, 1}, 0), errc::malformed_file, "too large");
  check_refused(shaped({std::uint64_t{1} << 40, 1}), errc::malformed_file, "truncated");
}

TEST_CASE("tensors of types that tropilla does not run are refused by name") {
  small_model m;
  m.at("blk.0.attn_q.weight").type = 16;
  check_refused(m, errc::unsupported, "IQ2_XXS");
  for (const auto& [number, name] : {std::pair{4U, "Q4_2"}, std::pair{31U, "Q4_0_4_4"}, std::pair{32U, "Q4_0_4_8"},
                                     std::pair{33U, "Q4_0_8_8"}, std::pair{36U, "IQ4_NL_4_4"}}) {
    m.at("blk.0.attn_q.weight").type = number;
    check_refused(m, errc::unsupported, std::string(name) + "), which was ggml's once");
  }
  for (const auto& [number, name] : {std::pair{24U, "I8"}, std::pair{25U, "I16"}, std::pair{26U, "I32"},
                                     std::pair{27U, "I64"}, std::pair{28U, "F64"}}) {
    m.at("blk.0.attn_q.weight").type = number;
    check_refused(m, errc::unsupported, "(" + std::string(name) + "), which is no type of weights");
  }
  m.at("blk.0.attn_q.weight").type = 0xFFFFFFFF;
  check_refused(m, errc::unsupported, "4294967295");
}

TEST_CASE("tensors outside the data, between alignments or over one another are refused") {
  const auto placed = [](std::uint64_t offset) {
    small_model m;
    m.at("output_norm.weight").offset = offset;
    return m;
  };
  const std::uint64_t room = small_model().build().data_bytes();
  CHECK_FALSE(attempt(small_model()).code.has_value());
  check_refused(placed(room), errc::malformed_file, "output_norm.weight");
  check_refused(placed(~std::uint64_t{0} - 31), errc::malformed_file, "output_norm.weight");
  check_refused(placed(std::uint64_t{1} << 63), errc::malformed_file, "output_norm.weight");
  check_refused(placed(33), errc::malformed_file, "multiple of the alignment");
  check_refused(placed(32), errc::malformed_file, "overlaps");
  check_refused(placed(0), errc::malformed_file, "overlaps");
}

TEST_CASE("files of other kinds and versions are refused, each with its own sentence") {
  const auto refuse = [](std::span<const std::byte> bytes, errc code, std::string_view words) {
    const outcome o = attempt(bytes, bytes.size());
    INFO(o.message);
    CHECK(o.code == code);
    CHECK(o.message.find(words) != std::string::npos);
  };
  const auto text = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  refuse({}, errc::malformed_file, "empty");
  refuse(text("GG"), errc::malformed_file, "ends inside");
  refuse(text("\x7F"
              "ELF and more"),
         errc::malformed_file, "no GGUF file");
  refuse(text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), errc::malformed_file, "git-lfs");
  auto header = small_model().header();
  for (const auto& [version, words] :
       std::initializer_list<std::pair<std::uint32_t, std::string_view>>{{1, "version 1"},
                                                                         {0, "version 0"},
                                                                         {4, "version 4"},
                                                                         {0x00010001, "version 65537"},
                                                                         {0x03000000, "big-endian"},
                                                                         {0x02000000, "big-endian"}}) {
    std::memcpy(header.data() + 4, &version, sizeof(version));
    refuse(header, errc::unsupported, words);
  }
}

TEST_CASE("paths that are no files are refused") {
  const temporary_folder folder;
  const auto refuse = [](const std::filesystem::path& path, errc code, std::string_view words) {
    const outcome o = outcome_of([&] { (void)gguf_file::open(path); });
    INFO(o.message);
    CHECK(o.code == code);
    CHECK(o.message.find(words) != std::string::npos);
    CHECK(o.message.find(path.string()) != std::string::npos);
  };
  refuse(folder / "none.gguf", errc::io_error, "No such file");
  refuse(folder / "", errc::io_error, "a folder");
  refuse(folder.write("empty.gguf", {}), errc::malformed_file, "empty");
  // Nobody writes to it: opening must not wait.
  REQUIRE(::mkfifo((folder / "pipe.gguf").c_str(), 0600) == 0);
  refuse(folder / "pipe.gguf", errc::io_error, "pipe");
}

TEST_CASE("a file truncated at a section boundary is refused when opened from disk") {
  const temporary_folder folder;
  const small_model m;
  const auto bytes = m.file();
  small_model only_metadata = m;
  only_metadata.tensors.clear();
  // After the magic, the version, each count, the metadata, the tensor infos, and the data of the first tensor.
  for (const std::size_t n :
       {std::size_t{0}, std::size_t{4}, std::size_t{8}, std::size_t{16}, std::size_t{24}, only_metadata.header().size(),
        m.header().size() - 32, m.header().size(), m.header().size() + 32, bytes.size() - 1}) {
    INFO(n << " bytes");
    const auto path = folder.write("cut.gguf", std::span(bytes).first(n));
    const allocation_watch watch;
    CHECK(outcome_of([&] { (void)gguf_file::open(path); }).code == errc::malformed_file);
    CHECK(watch.largest() <= (std::size_t{1} << 19)); // the window through which files are read
  }
  CHECK_FALSE(outcome_of([&] { (void)gguf_file::open(folder.write("whole.gguf", bytes)); }).code.has_value());
}

TEST_CASE("messages quote what the file says without its control characters") {
  const outcome o = attempt(small_model().with("general.architecture", "evil\n\x1b[31m\"name"));
  CHECK(o.code == errc::unsupported);
  CHECK(o.message.find("evil\\x0a\\x1b[31m\\x22name") != std::string::npos);
  const outcome lengthy = attempt(small_model().with("general.architecture", std::string(5000, 'a').c_str()));
  CHECK(lengthy.message.size() < 300);
}
