// Keys and values that leave a runtime's devices, and come back.
#include "tests/support/tiny_runtime.hpp"
#include "tropilla/tropilla.hpp"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

using namespace tropilla;
using testing::ask;

namespace {

constexpr std::size_t context = 512;
constexpr std::size_t conversations = 3;

/// Pages for one sequence of the whole context: conversations displace each other.
runtime_config small_config() {
  auto config = testing::tiny_config(1, context);
  config.model = testing::model_of_shape("mini", tensor_type::q4_0);
  config.sequences = 2;
  config.kv_tokens = context;
  config.max_batch_tokens = 64;
  return config;
}

/// An empty folder.
std::filesystem::path folder() {
  auto path = testing::scratch() / "kv store";
  std::filesystem::remove_all(path);
  return path;
}

std::vector<token_id> prompt_of(std::size_t conversation) {
  std::vector<token_id> ids;
  for (std::size_t n = 0; n < 300; ++n)
    ids.push_back(static_cast<token_id>(1 + (n * 11 + conversation * 131) % 900));
  return ids;
}

/// The prompt of the next message: the one before, its reply, and ten tokens more.
std::vector<token_id> history(std::vector<token_id> prompt, const std::vector<token_id>& reply) {
  prompt.insert(prompt.end(), reply.begin(), reply.end());
  for (token_id id = 5; id < 15; ++id)
    prompt.push_back(id);
  return prompt;
}

std::uintmax_t bytes_in(const std::filesystem::path& path) {
  std::uintmax_t bytes = 0;
  if (std::filesystem::exists(path))
    for (const auto& file : std::filesystem::directory_iterator(path))
      bytes += file.file_size();
  return bytes;
}

/// The notices of a runtime.
class notices {
public:
  [[nodiscard]] std::function<void(std::string_view)> sink() {
    return [this](std::string_view sentence) {
      const std::lock_guard lock(mutex_);
      all_ += std::string(sentence) + "\n";
    };
  }
  [[nodiscard]] std::string all() {
    const std::lock_guard lock(mutex_);
    return all_;
  }

private:
  std::mutex mutex_;
  std::string all_;
};

} // namespace

TEST_CASE("conversations that take turns find what had to leave, and say the same") {
  auto config = small_config();
  std::vector<std::vector<token_id>> first, second;
  {
    runtime rt(config);
    for (std::size_t i = 0; i < conversations; ++i)
      first.push_back(ask(rt, prompt_of(i)).ids);
    for (std::size_t i = 0; i < conversations; ++i) {
      const auto again = ask(rt, history(prompt_of(i), first[i]));
      CHECK(again.statistics.reused_tokens < 64);
      second.push_back(again.ids);
    }
    CHECK(rt.load().store.saved == 0);
  }
  config.kv_host_bytes = GENERATE(std::size_t{0}, std::size_t{1} << 20, std::size_t{64} << 20);
  config.kv_disk_bytes = GENERATE(std::size_t{0}, std::size_t{64} << 20);
  if (config.kv_host_bytes + config.kv_disk_bytes < (std::size_t{2} << 20))
    return;
  INFO(config.kv_host_bytes << " in memory, " << config.kv_disk_bytes << " on the disk");
  config.kv_folder = folder();
  runtime rt(config);
  for (std::size_t i = 0; i < conversations; ++i)
    CHECK(ask(rt, prompt_of(i)).ids == first[i]);
  for (std::size_t i = 0; i < conversations; ++i) {
    const auto again = ask(rt, history(prompt_of(i), first[i]));
    CHECK(again.statistics.reused_tokens >= 288);
    CHECK(again.ids == second[i]);
    if (config.kv_host_bytes > 0) // else some pages are on their way
      CHECK(rt.load().store.host_bytes <= config.kv_host_bytes);
    CHECK(bytes_in(config.kv_folder) <= config.kv_disk_bytes);
  }
  CHECK(rt.load().store.restored >= conversations * 9);
}

TEST_CASE("a conversation goes on after a restart, and what the disk damaged is computed again") {
  auto config = small_config();
  config.kv_disk_bytes = std::size_t{64} << 20;
  config.kv_folder = folder();
  std::vector<token_id> first, expected;
  {
    runtime rt(config);
    first = ask(rt, prompt_of(0)).ids;
  }
  const auto more = history(prompt_of(0), first);
  {
    auto without = config;
    without.kv_disk_bytes = 0;
    runtime rt(without);
    const auto computed = ask(rt, more);
    CHECK(computed.statistics.reused_tokens == 0);
    expected = computed.ids;
  }
  SECTION("as it was") {
    runtime rt(config);
    const auto restored = ask(rt, more);
    CHECK(restored.statistics.reused_tokens >= 288);
    CHECK(restored.ids == expected);
  }
  SECTION("damaged") {
    for (const auto& file : std::filesystem::directory_iterator(config.kv_folder)) {
      std::fstream bytes(file.path(), std::ios::in | std::ios::out | std::ios::binary);
      for (std::uintmax_t at = 5000; at < file.file_size(); at += 8192) {
        bytes.seekp(static_cast<std::streamoff>(at));
        bytes.put('\x55');
      }
    }
    notices heard;
    config.on_notice = heard.sink();
    runtime rt(config);
    const auto computed = ask(rt, more);
    CHECK(computed.statistics.reused_tokens < 288);
    CHECK(computed.ids == expected);
    CHECK_THAT(heard.all(), Catch::Contains("damaged"));
  }
  SECTION("stored otherwise") {
    config.kv_type = "q8_0";
    runtime rt(config);
    CHECK(ask(rt, more).statistics.reused_tokens == 0);
  }
}

TEST_CASE("devices whose stages have other layers don't take each other's pages for theirs") {
  auto config = small_config();
  config.model = testing::model_of_shape("mini-heads", tensor_type::q4_0);
  config.split = "pipeline=2,tensor=2";
  config.kv_disk_bytes = std::size_t{64} << 20;
  config.kv_folder = folder();
  const auto of_budgets = [&config](std::size_t first, std::size_t second) {
    config.devices.clear();
    for (std::size_t i = 0; i < 4; ++i)
      config.devices.push_back({"host:" + std::to_string(i), (i < 2 ? first : second) << 20});
    return config;
  };
  std::vector<token_id> expected;
  {
    runtime rt(of_budgets(64, 64));
    expected = ask(rt, prompt_of(0)).ids;
  }
  runtime rt(of_budgets(64, 192));
  const auto computed = ask(rt, prompt_of(0));
  CHECK(computed.statistics.reused_tokens == 0);
  CHECK(computed.ids == expected);
}

TEST_CASE("a session is saved with what had to leave") {
  auto config = small_config();
  config.kv_host_bytes = std::size_t{64} << 20;
  const auto path = testing::scratch() / "left.session";
  runtime rt(config);
  (void)ask(rt, prompt_of(0));
  (void)ask(rt, prompt_of(1)); // takes the pages
  CHECK(rt.save_session(path, prompt_of(0)) >= 288);
  runtime other(small_config());
  CHECK(other.load_session(path).size() >= 288);
  CHECK(ask(other, prompt_of(0)).statistics.reused_tokens >= 288);
}

TEST_CASE("a folder that can't be had costs the store alone") {
  auto config = small_config();
  config.kv_disk_bytes = std::size_t{64} << 20;
  notices heard;
  config.on_notice = heard.sink();
  SECTION("another runtime has the file") {
    config.kv_folder = folder();
    runtime first(config);
    CHECK(heard.all().empty());
    runtime second(config);
    CHECK_FALSE(heard.all().empty());
    CHECK(ask(second, prompt_of(0)).ids == ask(first, prompt_of(0)).ids);
    CHECK(second.load().store.saved == 0);
  }
  SECTION("it can't be made") {
    const auto file = testing::scratch() / "no folder";
    std::ofstream(file) << "x";
    config.kv_folder = file / "kv";
    runtime rt(config);
    CHECK_FALSE(heard.all().empty());
    CHECK(ask(rt, prompt_of(0)).ids.size() == 12);
    CHECK(rt.load().store.saved == 0);
  }
}

TEST_CASE("a store on the disk needs a folder") {
  auto config = small_config();
  config.kv_disk_bytes = 1 << 20;
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("folder"));
}

TEST_CASE("a store that leaves no memory for the model is refused with the numbers") {
  auto config = small_config();
  config.kv_host_bytes = std::size_t{1} << 50;
  CHECK_THROWS_WITH(runtime(config), Catch::Contains("1.0 PiB") && Catch::Contains("keys and values that leave"));
}
