// Reading GGUF files that are as they should be: values, tensors, versions, alignments, split files.
#include "src/model/gguf.hpp"

#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <limits>

using namespace tropilla;
using namespace tropilla::testing;

namespace {

gguf_file parse(const std::vector<std::byte>& bytes) {
  return gguf_file::parse(bytes, bytes.size(), "test.gguf");
}

template <class T>
small_model::put raw(std::uint32_t type, T value) {
  return [type, value](gguf_builder& b, const std::string& key) {
    b.put_raw(key, type, std::as_bytes(std::span(&value, 1)));
  };
}

/// An array of the given elements of a GGUF type.
template <class T>
small_model::put raw_array(std::uint32_t element_type, std::vector<T> values) {
  return [element_type, values = std::move(values)](gguf_builder& b, const std::string& key) {
    std::vector<std::byte> bytes(sizeof(std::uint32_t) + sizeof(std::uint64_t));
    const std::uint64_t count = values.size();
    std::memcpy(bytes.data(), &element_type, sizeof(element_type));
    std::memcpy(bytes.data() + sizeof(element_type), &count, sizeof(count));
    const auto elements = std::as_bytes(std::span(values));
    bytes.insert(bytes.end(), elements.begin(), elements.end());
    b.put_raw(key, 9, bytes);
  };
}

} // namespace

TEST_CASE("values of every type are read and widened") {
  small_model m;
  m.with("u8", raw<std::uint8_t>(0, 255)).with("i8", raw<std::int8_t>(1, -128));
  m.with("u16", raw<std::uint16_t>(2, 65535)).with("i16", raw<std::int16_t>(3, -32768));
  m.with("u32", raw<std::uint32_t>(4, 0xFFFFFFFFU)).with("i32", raw<std::int32_t>(5, -5));
  m.with("f32", raw<float>(6, 0.5F)).with("flag", raw<std::uint8_t>(7, 1)).with("text", "grüße");
  m.with("u64", raw<std::uint64_t>(10, std::numeric_limits<std::uint64_t>::max()));
  m.with("i64", raw<std::int64_t>(11, std::numeric_limits<std::int64_t>::min())).with("f64", raw<double>(12, 1e300));
  const gguf_file f = parse(m.file());
  CHECK(f.find_integer("u8") == 255U);
  CHECK(std::get<std::int64_t>(f.metadata.at("i8")) == -128);
  CHECK(f.find_integer("u16") == 65535U);
  CHECK(std::get<std::int64_t>(f.metadata.at("i16")) == -32768);
  CHECK(f.require_integer("u32") == 0xFFFFFFFFU);
  CHECK(f.find_number("i32") == -5.0);
  CHECK(f.find_number("f32") == 0.5);
  CHECK(f.find_flag("flag") == true);
  CHECK(f.require_text("text") == "grüße");
  CHECK(f.find_integer("u64") == std::numeric_limits<std::uint64_t>::max());
  CHECK(std::get<std::int64_t>(f.metadata.at("i64")) == std::numeric_limits<std::int64_t>::min());
  CHECK(f.find_number("f64") == 1e300);
}

TEST_CASE("arrays of every type are read and widened") {
  small_model m;
  m.with("u8", raw_array<std::uint8_t>(0, {1, 255})).with("i16", raw_array<std::int16_t>(3, {-1}));
  m.with("f32", raw_array<float>(6, {0.25F, -1.0F})).with("empty", raw_array<std::uint64_t>(10, {}));
  m.with("flags", raw_array<std::uint8_t>(7, {1, 0, 1})).with("f64", raw_array<double>(12, {0.1}));
  const gguf_file f = parse(m.file());
  CHECK(std::get<std::vector<std::uint64_t>>(f.find_array("u8")->values) == std::vector<std::uint64_t>{1, 255});
  CHECK(std::get<std::vector<std::int64_t>>(f.find_array("i16")->values) == std::vector<std::int64_t>{-1});
  CHECK(std::get<std::vector<double>>(f.find_array("f32")->values) == std::vector<double>{0.25, -1.0});
  CHECK(f.find_array("empty")->size() == 0);
  CHECK(std::get<std::vector<bool>>(f.find_array("flags")->values) == std::vector<bool>{true, false, true});
  CHECK(std::get<std::vector<double>>(f.find_array("f64")->values) == std::vector<double>{0.1});
  CHECK(std::get<std::vector<std::string>>(f.find_array("tokenizer.ggml.tokens")->values).at(5) == "abc");
}

TEST_CASE("look-ups name the key that is missing or of another type") {
  const gguf_file f = parse(small_model().with("negative", raw<std::int32_t>(5, -5)).file());
  CHECK_FALSE(f.find_integer("none").has_value());
  CHECK_FALSE(f.find_number("none").has_value());
  CHECK_FALSE(f.find_flag("none").has_value());
  CHECK(f.find_text("none") == nullptr);
  CHECK(f.find_array("none") == nullptr);
  CHECK(f.find_tensor("none") == nullptr);
  const std::vector<std::pair<std::string, std::function<void()>>> calls{
      {"none.int", [&] { (void)f.require_integer("none.int"); }},
      {"none.text", [&] { (void)f.require_text("none.text"); }},
      {"general.name", [&] { (void)f.find_integer("general.name"); }},
      {"negative", [&] { (void)f.find_integer("negative"); }},
      {"general.name", [&] { (void)f.find_number("general.name"); }},
      {"llama.block_count", [&] { (void)f.find_flag("llama.block_count"); }},
      {"llama.block_count", [&] { (void)f.find_text("llama.block_count"); }},
      {"llama.block_count", [&] { (void)f.find_array("llama.block_count"); }},
  };
  for (const auto& [key, call] : calls) {
    INFO(key);
    const outcome o = outcome_of(call);
    CHECK(o.code == errc::malformed_file);
    CHECK(o.message.find(key) != std::string::npos);
    CHECK(o.message.find("test.gguf") != std::string::npos);
  }
}

TEST_CASE("tensors lie behind one another at the alignment") {
  for (const std::uint32_t version : {2U, 3U})
    for (const std::uint32_t alignment : {1U, 32U, 64U, 4096U}) {
      small_model m;
      m.version = version;
      m.alignment = alignment;
      const auto bytes = m.file();
      const gguf_file f = parse(bytes);
      CHECK(f.version == version);
      REQUIRE(f.tensors.size() == m.tensors.size());
      std::uint64_t expected = m.header().size();
      for (const gguf_tensor& t : f.tensors) {
        CHECK(t.offset == expected);
        CHECK(t.bytes == t.rows() * row_bytes(t.type, t.columns()));
        CHECK(f.find_tensor(t.name) == &t);
        expected = (expected + t.bytes + alignment - 1) / alignment * alignment;
      }
      CHECK(expected == bytes.size());
      CHECK(f.find_tensor("blk.1.ffn_down.weight")->shape_text() == "[64, 32]");
    }
}

TEST_CASE("a file with a vocabulary and no tensors opens") {
  small_model m;
  m.tensors.clear();
  const auto bytes = m.file();
  CHECK(parse(bytes).tensors.empty());
  // Not even padded: the header is all there is.
  const gguf_file f = gguf_file::parse(std::span(bytes).first(bytes.size() - 1), bytes.size() - 1, "x");
  CHECK(f.find_array("tokenizer.ggml.tokens")->size() == 6);
}

TEST_CASE("strings and arrays longer than the reader's window are read whole") {
  const temporary_folder folder;
  const std::string text(1000001, 'x');
  std::vector<std::string> many;
  for (int i = 0; i < 60000; ++i)
    many.push_back("token " + std::to_string(i));
  small_model m;
  m.with("long", text.c_str());
  m.with("many", [&](gguf_builder& b, const std::string& key) { b.put_texts(key, many); });
  const gguf_file f = gguf_file::open(folder.write("m.gguf", m.file()));
  CHECK(f.require_text("long") == text);
  CHECK(std::get<std::vector<std::string>>(f.find_array("many")->values) == many);
}

namespace {

/// Two parts: metadata with half of the tensors, then the other half.
struct split_model {
  small_model first, second;

  split_model() {
    second.metadata.clear();
    const auto middle = first.tensors.begin() + 10;
    second.tensors.assign(middle, first.tensors.end());
    first.tensors.erase(middle, first.tensors.end());
    number(first, 0);
    number(second, 1);
  }

  static void number(small_model& part, std::uint16_t no) {
    part.with("split.no", raw<std::uint16_t>(2, no)).with("split.count", raw<std::uint16_t>(2, 2));
    part.with("split.tensors.count", raw<std::int32_t>(5, 20));
  }

  void write(const temporary_folder& folder) const {
    (void)folder.write("m-00001-of-00002.gguf", first.file());
    (void)folder.write("m-00002-of-00002.gguf", second.file());
  }
};

} // namespace

TEST_CASE("a split model opens by any of its parts") {
  const temporary_folder folder;
  split_model().write(folder);
  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const gguf_file f = gguf_file::open(folder / name);
    REQUIRE(f.files.size() == 2);
    CHECK(f.file_bytes.size() == 2);
    CHECK(f.tensors.size() == 20);
    CHECK(f.require_text("general.name") == "small");
    CHECK(f.find_tensor("token_embd.weight")->file == 0);
    const gguf_tensor* last = f.find_tensor("output_norm.weight");
    REQUIRE(last != nullptr);
    CHECK(last->file == 1);
    CHECK(last->offset + last->bytes <= f.file_bytes[1]);
  }
}

TEST_CASE("parts that are missing or don't belong together are refused") {
  const auto attempt = [](const std::function<void(split_model&)>& spoil) {
    const temporary_folder folder;
    split_model m;
    spoil(m);
    m.write(folder);
    return outcome_of([&] { (void)gguf_file::open(folder / "m-00001-of-00002.gguf"); });
  };
  CHECK_FALSE(attempt([](split_model&) {}).code.has_value());
  CHECK(attempt([](split_model& m) { split_model::number(m.second, 0); }).code == errc::malformed_file);
  CHECK(attempt([](split_model& m) { m.second.with("split.count", 3U); }).code == errc::malformed_file);
  CHECK(attempt([](split_model& m) { m.first.with("split.count", 3U); }).code == errc::malformed_file);
  CHECK(attempt([](split_model& m) { m.first.with("split.tensors.count", 21U); }).code == errc::malformed_file);
  const outcome twice = attempt([](split_model& m) { m.second.tensors.front().name = "token_embd.weight"; });
  CHECK(twice.code == errc::malformed_file);
  CHECK(twice.message.find("token_embd.weight") != std::string::npos);

  const temporary_folder folder;
  const split_model m;
  m.write(folder);
  std::filesystem::remove(folder / "m-00002-of-00002.gguf");
  const outcome missing = outcome_of([&] { (void)gguf_file::open(folder / "m-00001-of-00002.gguf"); });
  CHECK(missing.code == errc::io_error);
  CHECK(missing.message.find("m-00002-of-00002.gguf") != std::string::npos);
  // A part under another name can't say where its siblings are.
  const outcome renamed = outcome_of([&] { (void)gguf_file::open(folder.write("other.gguf", m.first.file())); });
  CHECK(renamed.code == errc::malformed_file);
}
