// Synthetic models: what is in them, that they are the same every time, and that failures leave nothing behind.
#include "src/model/synth.hpp"

#include "src/model/llama_config.hpp"
#include "src/model/tokenizer.hpp"
#include "tests/support/skipped.hpp"
#include "tests/unit/model/formats/gguf_fixture.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <csignal>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string_view>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <unordered_map>

using namespace tropilla;
using namespace tropilla::testing;

namespace {

std::vector<char> bytes_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<float> values_of(const std::vector<char>& file, const weight_source& w) {
  std::vector<float> out(w.rows * w.columns);
  dequantise(w.type, std::as_bytes(std::span(file)).subspan(w.offset, w.bytes), out);
  return out;
}

} // namespace

TEST_CASE("a model of every type opens, has the shape's sizes and finite weights") {
  const temporary_folder folder;
  for (const auto& type : tensor_types()) {
    INFO(type.name);
    const auto path = folder / "m.gguf";
    write_synthetic_model(path, {.shape = "mini", .type = type.type, .seed = 3}, {});
    const gguf_file file = gguf_file::open(path);
    const llama_config c = llama_config::read(file);
    const model_shape& shape = model_shapes().front();
    CHECK(c.type_name == type.name);
    CHECK(c.layers == shape.layers);
    CHECK(c.width == shape.width);
    CHECK(c.ffn_width == shape.ffn_width);
    CHECK(c.attention.heads == shape.heads);
    CHECK(c.attention.kv_heads == shape.kv_heads);
    CHECK(c.attention.key_size == shape.head_size);
    CHECK(c.vocabulary == shape.vocabulary);
    CHECK(c.context == shape.context);
    CHECK(c.output.has_value() != shape.tied);
    CHECK(c.rope.factors.size() == shape.head_size / 2);
    const auto bytes = bytes_of(path);
    for (const gguf_tensor& t : file.tensors)
      REQUIRE(blocks_are_finite(t.type, std::as_bytes(std::span(bytes)).subspan(t.offset, t.bytes)));
  }
}

TEST_CASE("weights are spread so that they keep the variance of what passes through") {
  const temporary_folder folder;
  write_synthetic_model(folder / "m.gguf", {.shape = "mini", .type = tensor_type::f32, .seed = 1}, {});
  const auto bytes = bytes_of(folder / "m.gguf");
  const llama_config c = llama_config::read(gguf_file::open(folder / "m.gguf"));
  std::set<float> firsts;
  for (const weight_source* w : {&c.token_embedding, &c.layer_sources[0].attn_q, &c.layer_sources[3].ffn_down}) {
    const auto values = values_of(bytes, *w);
    double sum = 0;
    double squares = 0;
    for (const float v : values) {
      sum += v;
      squares += static_cast<double>(v) * v;
    }
    const auto n = static_cast<double>(values.size());
    const double deviation = 1 / std::sqrt(static_cast<double>(w->columns));
    CHECK(std::abs(sum / n) < 4 * deviation / std::sqrt(n));
    CHECK(std::sqrt(squares / n) == Approx(deviation).epsilon(0.02));
    // Neither rows nor tensors repeat.
    firsts.insert(values.front());
    firsts.insert(values[w->columns * (w->rows - 1)]);
  }
  CHECK(firsts.size() == 6);
}

TEST_CASE("texts of any bytes come back from the vocabulary, whose prompts begin with BOS") {
  const temporary_folder folder;
  write_synthetic_model(folder / "m.gguf", {.shape = "mini"}, {});
  const auto file = gguf_file::open(folder / "m.gguf");
  const tokenizer tok(file);
  CHECK(tok.add_bos());
  std::string text = "a b, c";
  for (int i = 0; i < 256; ++i) // in UTF-8, which has all bytes that a text can have
    text += i < 128 ? std::string{static_cast<char>(i)}
                    : std::string{static_cast<char>(0xC2 + (i - 128) / 64), static_cast<char>(0x80 + i % 64)};
  CHECK(tok.decode(tok.encode(text)) == text);
}

TEST_CASE("the same seed gives the same file, another seed another") {
  const temporary_folder folder;
  write_synthetic_model(folder / "a", {.seed = 7}, {});
  write_synthetic_model(folder / "b", {.seed = 7}, {});
  write_synthetic_model(folder / "c", {.seed = 8}, {});
  CHECK(bytes_of(folder / "a") == bytes_of(folder / "b"));
  CHECK(bytes_of(folder / "a") != bytes_of(folder / "c"));
  CHECK(folder.entries() == 3);
}

TEST_CASE("the shapes have the parameters that were published") {
  const auto parameters = [](const model_shape& s) {
    const std::size_t kv = s.kv_heads * s.head_size;
    const std::size_t layer = s.width * (2 * s.heads * s.head_size + 2 * kv + 3 * s.ffn_width + 2);
    return s.layers * layer + (s.tied ? 1 : 2) * s.vocabulary * s.width + s.width;
  };
  std::map<std::string_view, std::size_t> published{
      {"llama-3.2-1b", 1235814400}, {"llama-3.2-3b", 3212749824}, {"llama-3-8b", 8030261248}};
  for (const auto& s : model_shapes())
    if (const auto known = published.extract(std::string_view(s.name)))
      CHECK(parameters(s) == known.mapped());
  CHECK(published.empty());
}

TEST_CASE("rows that are no whole blocks fall back as llama.cpp's do") {
  CHECK(storable_type(tensor_type::q4_k, 512) == tensor_type::q4_k);
  CHECK(storable_type(tensor_type::q2_k, 96) == tensor_type::iq4_nl);
  CHECK(storable_type(tensor_type::q3_k, 96) == tensor_type::iq4_nl);
  CHECK(storable_type(tensor_type::q4_k, 96) == tensor_type::q5_0);
  CHECK(storable_type(tensor_type::q5_k, 96) == tensor_type::q5_1);
  CHECK(storable_type(tensor_type::q6_k, 96) == tensor_type::q8_0);
  CHECK(storable_type(tensor_type::q4_k, 100) == tensor_type::f16);
  CHECK(storable_type(tensor_type::f32, 7) == tensor_type::f32);
}

TEST_CASE("every merged token has one merge, whose parts come before it") {
  const temporary_folder folder;
  write_synthetic_model(folder / "m.gguf", {}, {});
  const gguf_file file = gguf_file::open(folder / "m.gguf");
  const auto& tokens = std::get<std::vector<std::string>>(file.find_array("tokenizer.ggml.tokens")->values);
  const auto& merges = std::get<std::vector<std::string>>(file.find_array("tokenizer.ggml.merges")->values);
  std::unordered_map<std::string, std::size_t> ids;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    REQUIRE(ids.emplace(tokens[i], i).second);
  REQUIRE(tokens.size() == 256 + merges.size() + 256);
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const std::size_t space = merges[i].find(' ');
    REQUIRE(space != std::string::npos);
    const std::string left = merges[i].substr(0, space);
    const std::string right = merges[i].substr(space + 1);
    const std::size_t merged = ids.at(left + right);
    REQUIRE(merged == 256 + i);
    REQUIRE(ids.at(left) < merged);
    REQUIRE(ids.at(right) < merged);
  }
  CHECK(tokens[file.require_integer("tokenizer.ggml.bos_token_id")] == "<|begin_of_text|>");
  CHECK(tokens[file.require_integer("tokenizer.ggml.eos_token_id")] == "<|eot_id|>");
}

TEST_CASE("progress rises to the size of the file") {
  const temporary_folder folder;
  std::uint64_t last = 0;
  std::uint64_t total = 0;
  write_synthetic_model(folder / "m.gguf", {}, [&](std::uint64_t done, std::uint64_t all) {
    CHECK(done >= last);
    CHECK(done <= all);
    last = done;
    total = all;
  });
  CHECK(last == total);
  CHECK(total == std::filesystem::file_size(folder / "m.gguf"));
}

TEST_CASE("a writer that fails leaves what was there and nothing else") {
  const temporary_folder folder;
  const std::vector<std::byte> old(3, std::byte{'x'});
  const auto path = folder.write("m.gguf", old);
  struct stop {};
  CHECK_THROWS_AS(write_synthetic_model(path, {}, [](std::uint64_t, std::uint64_t) { throw stop{}; }), stop);
  CHECK(std::filesystem::file_size(path) == 3);
  CHECK(folder.entries() == 1);

  const outcome nowhere = outcome_of([&] { write_synthetic_model(folder / "none" / "m.gguf", {}, {}); });
  CHECK(nowhere.code == errc::io_error);
  CHECK(nowhere.message.find("No such file") != std::string::npos);
  const outcome onto_folder = outcome_of([&] { write_synthetic_model(folder / "", {}, {}); });
  CHECK(onto_folder.code == errc::io_error);
  CHECK(onto_folder.message.find("is a folder") != std::string::npos);
  const outcome shapeless = outcome_of([&] { write_synthetic_model(folder / "x", {.shape = "giant"}, {}); });
  CHECK(shapeless.code == errc::invalid_argument);
  CHECK(shapeless.message.find("llama-3.2-1b") != std::string::npos);
  CHECK(folder.entries() == 1);
}

TEST_CASE("a writer that is killed leaves nothing, where files may be without a name") {
  const temporary_folder folder;
  const int nameless = ::open((folder / "").c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (nameless < 0)
    return testing::skipped("the file system of " + (folder / "").string() + " gives every file a name");
  ::close(nameless);
  const pid_t writer = ::fork();
  REQUIRE(writer >= 0);
  if (writer == 0) {
    write_synthetic_model(folder / "m.gguf", {}, [](std::uint64_t done, std::uint64_t) {
      if (done > 0)
        ::kill(::getpid(), SIGKILL);
    });
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(writer, &status, 0) == writer);
  CHECK(WIFSIGNALED(status));
  CHECK(folder.entries() == 0);
}

TEST_CASE("a full disk is found out before the work and leaves nothing behind") {
  // A limit on file sizes stands in for the disk: both make the same calls fail.
  const temporary_folder folder;
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1U << 20, .rlim_max = before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const outcome o = outcome_of([&] { write_synthetic_model(folder / "m.gguf", {}, {}); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  INFO(o.message);
  CHECK(o.code == errc::io_error);
  CHECK(o.message.find("make room") != std::string::npos);
  CHECK(folder.entries() == 0);
}
