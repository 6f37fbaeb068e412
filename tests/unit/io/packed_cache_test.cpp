// Entries of the packed cache: whole ones, damaged ones, and what is no entry at all.
#include "src/io/packed_cache.hpp"
#include "src/io/packed_file_format.hpp"
#include "src/io/packed_mapping.hpp"

#include "tests/support/packed_entries.hpp"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/stat.h>

using namespace tropilla;
using namespace tropilla::testing;
namespace fs = std::filesystem;

namespace {

std::vector<char> content_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void put(const fs::path& path, const std::vector<char>& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(content.data(), static_cast<std::streamsize>(content.size()));
}

/// Writes `value` over a field of the header and makes its checksum right again: only the field's own check is left.
template <class Number>
std::vector<char> with_field(std::vector<char> content, std::size_t offset, Number value) {
  std::memcpy(content.data() + offset, &value, sizeof value);
  packed_format::seal(std::as_writable_bytes(std::span(content.data(), packed_format::header_bytes(3, checksums))));
  return content;
}

} // namespace

TEST_CASE("what one builds another opens, maps and verifies") {
  const packed_folder folder("whole");
  CHECK_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
  build_whole(folder.path, key_of(1));
  const auto file = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(file);
  const auto mapping = file->map();
  REQUIRE(mapping);
  CHECK(mapping->bytes().size() == file->file_bytes());
  CHECK(fs::file_size(file->path()) == file->file_bytes());
  for (std::size_t i = 0; i < sections().size(); ++i) {
    CHECK(file->offset(i) % 4096 == 0);
    CHECK(file->verify(i) == "");
    const auto wanted = section_bytes(i);
    REQUIRE(file->offset(i) + (wanted.size() + 4095) / 4096 * 4096 <= file->file_bytes());
    CHECK(std::equal(wanted.begin(), wanted.end(), mapping->bytes().data() + file->offset(i)));
  }
}

TEST_CASE("a mapping outlives its file, its name and its cache") {
  const packed_folder folder("outlives");
  build_whole(folder.path, key_of(1));
  auto file = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(file);
  const auto mapping = file->map();
  const auto at = file->offset(2);
  CHECK(packed_cache::remove(folder.path, key_of(1)) == "");
  CHECK(file->verify(2) == "");
  file.reset();
  CHECK(std::memcmp(mapping->bytes().data() + at, section_bytes(2).data(), section_bytes(2).size()) == 0);
}

TEST_CASE("another key and other sections are no entry") {
  const packed_folder folder("other");
  build_whole(folder.path, key_of(1));
  CHECK_FALSE(packed_cache::open(folder.path, key_of(2), sections()));
  fs::copy_file(folder.path / key_of(1).text(), folder.path / key_of(2).text()); // right in itself, under a wrong name
  CHECK_FALSE(packed_cache::open(folder.path, key_of(2), sections()));
  for (const auto& change : std::vector<void (*)(std::vector<packed_section>&)>{
           [](auto& s) { s.pop_back(); },
           [](auto& s) {
             s.push_back({"more", 1});
           },
           [](auto& s) { ++s[1].bytes; }, [](auto& s) { s[2].block_bytes *= 2; }, [](auto& s) { s[0].name = "else"; },
           [](auto& s) { std::swap(s[0], s[1]); }, [](auto& s) { s.clear(); }}) {
    auto wanted = sections();
    change(wanted);
    CHECK_FALSE(packed_cache::open(folder.path, key_of(1), wanted));
  }
  CHECK(packed_cache::open(folder.path, key_of(1), sections()));
}

TEST_CASE("a flipped bit anywhere in the header makes the file no entry") {
  const packed_folder folder("flipped");
  build_whole(folder.path, key_of(1));
  const auto path = folder.path / key_of(1).text();
  const auto whole = content_of(path);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (std::size_t i = 0; i < packed_format::header_bytes(3, checksums); i += i < 600 ? 1 : 97) {
    const auto flip = [&](int mask) {
      file.seekp(static_cast<std::streamoff>(i));
      file.put(static_cast<char>(whole[i] ^ mask));
      file.flush();
    };
    flip(1 << i % 8);
    REQUIRE_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
    flip(0);
  }
  CHECK(packed_cache::open(folder.path, key_of(1), sections()));
}

TEST_CASE("a field that lies under a right checksum makes the file no entry") {
  using packed_format::fixed_part;
  using packed_format::table_entry;
  const packed_folder folder("lies");
  build_whole(folder.path, key_of(1));
  const auto path = folder.path / key_of(1).text();
  const auto whole = content_of(path);
  const std::size_t table = sizeof(fixed_part);
  std::vector<std::vector<char>> damaged;
  damaged.push_back(with_field(whole, offsetof(fixed_part, magic), std::uint64_t{0}));
  for (const std::uint32_t version : {0U, packed_format::version + 1, 0x01000000U})
    damaged.push_back(with_field(whole, offsetof(fixed_part, version), version));
  for (const std::uint32_t count : {0U, 1U, 2U, 4U, 59U, 60U, 65536U, 65537U, 0xffffffffU})
    damaged.push_back(with_field(whole, offsetof(fixed_part, sections), count));
  for (const std::uint64_t count :
       {std::uint64_t{0}, std::uint64_t{5}, std::uint64_t{7}, std::uint64_t{1} << 22, ~std::uint64_t{0}})
    damaged.push_back(with_field(whole, offsetof(fixed_part, checksums), count));
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{4096}, ~std::uint64_t{0}})
    damaged.push_back(with_field(whole, table + 2 * sizeof(table_entry) + offsetof(table_entry, block_bytes), bytes));
  damaged.push_back(with_field(whole, offsetof(fixed_part, key_high), std::uint64_t{9}));
  damaged.push_back(with_field(whole, offsetof(fixed_part, key_low), std::uint64_t{9}));
  for (const std::uint64_t bytes : {std::uint64_t{0}, whole.size() - 1, whole.size() + 4096, ~std::uint64_t{0}}) {
    damaged.push_back(with_field(whole, offsetof(fixed_part, file_bytes), bytes));
    for (std::size_t i = bytes == 0 ? 2 : 0; i < 3; ++i) // one of them has no bytes
      damaged.push_back(with_field(whole, table + i * sizeof(table_entry) + offsetof(table_entry, bytes), bytes));
  }
  std::array<char, sizeof(fixed_part::description)> endless_text;
  endless_text.fill('x');
  damaged.push_back(with_field(whole, offsetof(fixed_part, description), endless_text));
  std::array<char, sizeof(table_entry::name)> endless_name;
  endless_name.fill('x');
  damaged.push_back(with_field(whole, table + offsetof(table_entry, name), endless_name));
  damaged.push_back(with_field(whole, table + offsetof(table_entry, name), std::array{'o', '\0'}));
  for (std::size_t i = 0; i < damaged.size(); ++i) {
    INFO("damage " << i);
    put(path, damaged[i]);
    REQUIRE_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
    REQUIRE(packed_cache::list(folder.path).size() == 1); // nor does it trouble the list
  }
}

TEST_CASE("a file cut at any boundary, or longer than it says, is no entry and is built anew") {
  const packed_folder folder("cut");
  build_whole(folder.path, key_of(1));
  const auto path = folder.path / key_of(1).text();
  const auto whole = content_of(path);
  std::vector<std::size_t> lengths{0, 1, 7, 8, 311, 312, 313, 4095, whole.size() - 1, whole.size() + 1};
  for (std::size_t at = 4096; at < whole.size() + std::size_t{3} * 4096; at += 4096)
    if (at != whole.size())
      lengths.insert(lengths.end(), {at - 1, at, at + 1});
  for (const auto length : lengths) {
    if (length == whole.size())
      continue;
    auto content = whole;
    content.resize(length);
    put(path, content);
    INFO(length << " of " << whole.size());
    REQUIRE_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
  }
  build_whole(folder.path, key_of(1));
  CHECK(content_of(path) == whole);
}

TEST_CASE("damage in a section is found by its checksum and nothing else") {
  const packed_folder folder("section");
  build_whole(folder.path, key_of(1));
  auto file = packed_cache::open(folder.path, key_of(1), sections());
  auto content = content_of(file->path());
  content[file->offset(2) + 77] ^= 4;
  put(file->path(), content);
  file = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(file);
  CHECK(file->verify(0) == "");
  CHECK(file->verify(1) == "");
  CHECK_THAT(file->verify(2), Catch::Contains(sections()[2].name) && Catch::Contains("damaged"));
  fs::resize_file(file->path(), file->offset(2));
  CHECK_THAT(file->verify(2), Catch::Contains("can't read"));
}

TEST_CASE("every block of a section is compared by itself, wherever its damage is") {
  const packed_folder folder("blocks");
  build_whole(folder.path, key_of(1));
  const auto file = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(file);
  auto bytes = section_bytes(2);
  const std::span all(bytes);
  CHECK(file->is_sound(2, 0, all));
  CHECK(file->is_sound(0, 0, section_bytes(0)));
  CHECK(file->is_sound(1, 0, {}));
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{8191}, std::size_t{8192}, 3 * std::size_t{8192} + 5, bytes.size() - 1}) {
    bytes[at] ^= std::byte{1};
    CHECK_FALSE(file->is_sound(2, 0, all));
    for (std::size_t block = 0; block < 5; ++block) {
      const auto begin = block * 8192;
      CHECK(file->is_sound(2, begin, all.subspan(begin, std::min<std::size_t>(8192, all.size() - begin))) ==
            (block != at / 8192));
    }
    bytes[at] ^= std::byte{1};
  }
}

TEST_CASE("what is damaged is mended in place with the bytes that were written, and with no others") {
  const packed_folder folder("mended");
  build_whole(folder.path, key_of(1));
  const auto file = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(file);
  const auto whole = content_of(file->path());
  const auto right = section_bytes(2);
  const std::span blocks = std::span(right).subspan(8192, std::size_t{2} * 8192);

  auto content = whole;
  content[file->offset(2) + 8192 + 9] ^= 1;
  content[77] ^= 1; // of the header
  put(file->path(), content);
  CHECK_THAT(file->verify(2), Catch::Contains("damaged"));
  CHECK(file->mend(2, 8192, blocks) == "");
  CHECK(content_of(file->path()) == whole);

  fs::resize_file(file->path(), file->offset(2) + 100);
  for (std::size_t i = 0; i < sections().size(); ++i)
    CHECK(file->mend(i, 0, section_bytes(i)) == "");
  CHECK(content_of(file->path()) == whole);

  auto wrong = right;
  wrong[8192] ^= std::byte{8};
  CHECK_THAT(file->mend(2, 0, wrong), Catch::Contains("other bytes"));
  CHECK(content_of(file->path()) == whole);

  fs::remove(file->path());
  CHECK_THAT(file->mend(2, 0, right), Catch::Contains("No such file"));
  CHECK(file->remove() == "");
  build_whole(folder.path, key_of(1));
  CHECK_THAT(file->mend(2, 0, right), Catch::Contains("replaced"));
  CHECK(file->remove() == ""); // nor is the other one removed
  const auto other = packed_cache::open(folder.path, key_of(1), sections());
  REQUIRE(other);
  CHECK(other->remove() == "");
  CHECK_FALSE(fs::exists(other->path()));
}

TEST_CASE("what is no file under an entry's name is no entry, and is not waited for") {
  const packed_folder folder("no-file");
  fs::create_directories(folder.path);
  const auto path = folder.path / key_of(1).text();
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
  fs::remove(path);
  fs::create_directory(path);
  CHECK_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
  fs::remove(path);
  build_whole(folder.path, key_of(2));
  fs::create_symlink(key_of(2).text(), path);
  CHECK_FALSE(packed_cache::open(folder.path, key_of(1), sections()));
}

TEST_CASE("entries are listed with what they are, and removed") {
  const packed_folder folder("list");
  CHECK(packed_cache::list(folder.path).empty());
  CHECK(packed_cache::remove(folder.path, key_of(1)) == "");
  build_whole(folder.path, key_of(1));
  put(folder.path / key_of(2).text(), {'n', 'o'});
  put(folder.path / (key_of(3).text() + ".part"), {'n', 'o'});
  put(folder.path / "README", {'n', 'o'});
  REQUIRE(::mkfifo((folder.path / key_of(5).text()).c_str(), 0600) == 0); // not waited for
  fs::create_symlink(key_of(1).text(), folder.path / key_of(6).text());   // not followed
  auto building = packed_cache::build(folder.path, key_of(4), "the fourth", sections());
  REQUIRE(std::holds_alternative<packed_builder>(building));
  put(folder.path / (key_of(3).text() + ".part"), {'n', 'o'}); // the build has removed it
  using state = packed_entry::state;
  const auto entries = packed_cache::list(folder.path);
  REQUIRE(entries.size() == 5);
  const state expected[] = {state::complete, state::unusable, state::partial, state::building, state::unusable};
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(entries[i].key == key_of(i + 1).text());
    CHECK(entries[i].what == expected[i]);
    CHECK(entries[i].last_used > 1'000'000'000);
  }
  CHECK(entries[0].description == "a model");
  CHECK(entries[0].bytes >= std::size_t{3} * 4096);
  CHECK(entries[3].description == "the fourth");
  for (std::size_t i = 1; i <= 3; ++i)
    CHECK(packed_cache::remove(folder.path, key_of(i)) == "");
  CHECK_THAT(packed_cache::remove(folder.path, key_of(4)), Catch::Contains("is being built"));
  building = packed_refusal{};
  CHECK(packed_cache::list(folder.path).size() == 1); // the pipe
  CHECK_THROWS_WITH(packed_cache::list(folder.path / "README"), Catch::Contains("Not a directory"));
}

TEST_CASE("keys are written and read as 32 digits") {
  const packed_key key{0x0123456789abcdef, 7};
  CHECK(key.text() == "0123456789abcdef0000000000000007");
  CHECK(packed_key::parse(key.text()) == key);
  for (const char* text :
       {"", "0123456789abcdef000000000000000", "0123456789abcdef00000000000000070", "0123456789ABCDEF0000000000000007",
        "+123456789abcdef0000000000000007", "../..............................", "0123456789abcdef 000000000000007"})
    CHECK_FALSE(packed_key::parse(text));
}

TEST_CASE("a key depends on every text, number and fact of a file, and on where one ends") {
  const auto hash = [](std::initializer_list<std::string_view> texts) {
    packed_key_hash h;
    for (const auto text : texts)
      h.add(text);
    return h.key();
  };
  CHECK(hash({"ab", "c"}) == hash({"ab", "c"}));
  CHECK(hash({"ab", "c"}) != hash({"a", "bc"}));
  CHECK(hash({"abc"}) != hash({"abc", ""}));
  const packed_folder folder("identity");
  fs::create_directories(folder.path);
  const auto path = folder.path / "model";
  const auto file_key = [&] {
    packed_key_hash h;
    h.add(std::uint64_t{1});
    h.add_file(path);
    return h.key();
  };
  put(path, {'a'});
  const auto first = file_key();
  CHECK(file_key() == first);
  const timespec later[2] = {{0, UTIME_OMIT}, {1'700'000'000, 1}};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), later, 0) == 0);
  const auto touched = file_key();
  CHECK(touched != first);
  put(folder.path / "copy", {'a'});
  REQUIRE(::utimensat(AT_FDCWD, (folder.path / "copy").c_str(), later, 0) == 0);
  fs::rename(folder.path / "copy", path); // the same length and time, another inode
  CHECK(file_key() != touched);
  fs::remove(path);
  CHECK_THROWS_WITH(file_key(), Catch::Contains("No such file"));
}
