// Sequences that are saved by one runtime and go on in another.
#include "tropilla/tropilla.hpp"

#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <numeric>
#include <thread>

using namespace tropilla;
using testing::ask;

namespace {

runtime_config tiny() {
  return testing::tiny_config(1);
}

std::vector<token_id> numbers(std::size_t n) {
  std::vector<token_id> out(n);
  std::iota(out.begin(), out.end(), 3);
  return out;
}

std::filesystem::path place(const char* name) {
  return testing::scratch() / name;
}

/// The code with which a session is refused; a runtime that refuses has leased nothing.
errc refused(runtime& rt, const std::filesystem::path& path) {
  const auto before = rt.load();
  errc code{};
  try {
    (void)rt.load_session(path);
  } catch (const error& e) {
    CHECK(std::string_view(e.what()).size() > 20);
    code = e.code();
  }
  const auto after = rt.load();
  CHECK(after.pages_in_use == before.pages_in_use);
  if (code != errc{})
    CHECK(after.pages_cached == before.pages_cached);
  return code;
}

/// A session of 70 tokens of prompt and 12 of reply; what follows on it.
std::vector<token_id> save(const runtime_config& config, const char* name) {
  runtime rt(config);
  auto ids = numbers(70);
  const auto first = ask(rt, ids).ids;
  ids.insert(ids.end(), first.begin(), first.end());
  CHECK(rt.save_session(place(name), ids, "a note") == 81); // the last token's were never computed
  return ids;
}

} // namespace

TEST_CASE("a sequence that is restored goes on as it would have, without computing what was saved") {
  for (const std::string type : {"f16", "q8_0"}) {
    auto config = tiny();
    config.kv_type = type;
    auto ids = save(config, "one.session");
    ids.insert(ids.end(), {500, 501, 502});
    runtime fresh(config);
    const auto expected = ask(fresh, ids).ids;
    runtime rt(config);
    std::string note;
    CHECK(rt.load_session(place("one.session"), &note) == std::vector(ids.begin(), ids.begin() + 81));
    CHECK(note == "a note");
    CHECK(rt.load().pages_in_use == 0);
    const auto got = ask(rt, ids);
    CHECK(got.ids == expected);
    CHECK(got.statistics.reused_tokens == 81);
    (void)rt.load_session(place("one.session")); // once more, where its pages are already
    CHECK(ask(rt, ids).ids == expected);
  }
}

TEST_CASE("a session does not depend on how a model is divided between devices") {
  auto divided = tiny();
  divided.split = GENERATE("pipeline=2", "tensor=2");
  divided.devices = {{"host:0", 64 << 20}, {"host:1", 64 << 20}};
  const auto bytes = [](const char* name) {
    std::ifstream in(place(name), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  auto ids = save(tiny(), "whole.session");
  CHECK(save(divided, "divided.session") == ids);
  CHECK(bytes("whole.session") == bytes("divided.session"));
  ids.push_back(77);
  runtime fresh(tiny());
  runtime rt(divided);
  (void)rt.load_session(place("whole.session"));
  const auto got = ask(rt, ids);
  CHECK(got.ids == ask(fresh, ids).ids);
  CHECK(got.statistics.reused_tokens == 81);
}

TEST_CASE("what does not fit is refused before any page is taken") {
  (void)save(tiny(), "fits.session");
  auto config = tiny();
  {
    runtime rt(config);
    CHECK(refused(rt, place("absent.session")) == errc::io_error);
    CHECK(refused(rt, config.model) == errc::malformed_file);
    // Damage in the last page: the first is not restored either.
    std::ifstream in(place("fits.session"), std::ios::binary);
    std::string bytes(std::istreambuf_iterator<char>(in), {});
    bytes[bytes.size() - 100] ^= 1;
    std::ofstream(place("damaged.session"), std::ios::binary) << bytes;
    CHECK(refused(rt, place("damaged.session")) == errc::malformed_file);
    CHECK(refused(rt, place("fits.session")) == errc{});
  }
  config.context = 64;
  {
    runtime rt(config);
    CHECK(refused(rt, place("fits.session")) == errc::context_full);
  }
  config = tiny();
  config.kv_type = "bf16";
  {
    runtime rt(config);
    CHECK(refused(rt, place("fits.session")) == errc::invalid_argument);
  }
  config = tiny();
  config.precise = true;
  {
    runtime rt(config);
    CHECK(refused(rt, place("fits.session")) == errc::invalid_argument);
  }
  // The same shape with other weights, and the same weights under another name.
  const auto other = place("other.gguf");
  write_synthetic_model(other, {.shape = "mini", .type = tensor_type::q4_0, .seed = 8}, {});
  config = tiny();
  config.model = other;
  {
    runtime rt(config);
    CHECK(refused(rt, place("fits.session")) == errc::invalid_argument);
  }
  std::filesystem::copy_file(testing::tiny_model(), other, std::filesystem::copy_options::overwrite_existing);
  runtime rt(config);
  CHECK(refused(rt, place("fits.session")) == errc{});
}

TEST_CASE("sessions are saved and restored while replies are computed") {
  auto config = tiny();
  config.sequences = 4;
  config.kv_tokens = 1024;
  const auto ids = save(config, "busy.session");
  runtime rt(config);
  const auto expected = ask(rt, numbers(40), 60).ids;
  std::vector<std::vector<token_id>> replies(4);
  std::thread others([&] {
    for (auto& reply : replies)
      reply = ask(rt, numbers(40), 60).ids;
  });
  auto prompt = numbers(40);
  prompt.insert(prompt.end(), expected.begin(), expected.end());
  for (int i = 0; i < 10; ++i) {
    (void)rt.load_session(place("busy.session"));
    CHECK(rt.save_session(place("meanwhile.session"), prompt) >= 40);
    runtime(config).load_session(place("meanwhile.session"));
  }
  others.join();
  for (const auto& reply : replies)
    CHECK(reply == expected);
  CHECK(rt.load().pages_in_use == 0);
  // What was saved in the middle of replies is what they computed.
  runtime next(config);
  const auto restored = next.load_session(place("meanwhile.session"));
  CHECK(restored == std::vector(prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(restored.size())));
  CHECK(ask(next, numbers(40), 60).ids == expected);
  CHECK(rt.save_session(place("none.session"), std::vector<token_id>{900, 901}) == 0);
  CHECK(next.load_session(place("none.session")).empty());
  CHECK_THROWS_AS(rt.save_session(place("none.session"), std::vector<token_id>{-1}), error);
}
