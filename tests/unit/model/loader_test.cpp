// Reading and packing weights: split groups, damage, and files that change under the reader.
#include "src/io/packed_weights.hpp"
#include "src/io/weight_loader.hpp"

#include "tests/support/faulty_reader.hpp"
#include "tests/support/log_keeper.hpp"
#include "tests/support/tiny_model.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <future>
#include <optional>

using namespace tropilla;

namespace {

struct loaded_model {
  explicit loaded_model(const std::filesystem::path& path)
      : file(gguf_file::open(path)), layout(llama_layout::make(llama_config::read(file))), dev(make_host_device({})) {}

  /// Loads one group; the failure, empty when there is none.
  std::string load(std::size_t group, std::vector<std::byte>& memory, loader_shape shape) {
    weight_loader_setup setup;
    setup.shape = shape;
    return load_with(setup, group, memory);
  }

  std::string load_with(weight_loader_setup setup, std::size_t group, std::vector<std::byte>& memory) {
    std::vector<std::byte> staging(setup.shape.staging_bytes() + 4096);
    memory.assign(layout.groups[group].bytes + 2 * group_alignment, std::byte{0xee});
    auto* target = aligned(memory);
    std::promise<std::string> done;
    std::string failure;
    setup.layout = &layout;
    setup.dev = dev.get();
    setup.files = file.files;
    setup.staging = aligned(staging);
    {
      weight_loader loader(setup);
      loader.load(group, target, [&](const error* why) { done.set_value(why ? why->what() : ""); });
      failure = done.get_future().get();
    }
    std::memmove(memory.data(), target, layout.groups[group].bytes);
    memory.resize(layout.groups[group].bytes);
    return failure;
  }

  static std::byte* aligned(std::vector<std::byte>& memory) {
    return memory.data() + (group_alignment - reinterpret_cast<std::uintptr_t>(memory.data()) % group_alignment);
  }

  gguf_file file;
  llama_layout layout;
  std::unique_ptr<device> dev;
};

std::filesystem::path copy_of(const std::filesystem::path& path, const char* name) {
  auto copy = testing::scratch() / name;
  std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
  return copy;
}

} // namespace

TEST_CASE("a group gives the same bytes however it is cut into chunks") {
  loaded_model m(testing::tiny_model(tensor_type::q4_1));
  auto whole = loader_shape::for_model(m.layout, 2);
  auto cut = whole;
  cut.slot_bytes = slot_bytes_for(m.layout, 1) + 2 * group_alignment;
  cut.slots = 3;
  REQUIRE(cut.slot_bytes < whole.slot_bytes);
  for (std::size_t g = 0; g < m.layout.groups.size(); ++g) {
    std::vector<std::byte> a, b;
    CHECK(m.load(g, a, whole).empty());
    CHECK(m.load(g, b, cut).empty());
    CHECK(a == b);
  }
}

TEST_CASE("a group that stays is told of at debug, and one that is streamed at trace") {
  loaded_model m(testing::tiny_model(tensor_type::q4_1));
  const auto said = [&](std::function<bool(std::size_t)> streams, log_level level) {
    testing::log_keeper kept;
    {
      logs all({.sink = kept.sink(), .level = level});
      weight_loader_setup setup;
      setup.shape = loader_shape::for_model(m.layout, 1);
      setup.keeps = std::move(streams);
      setup.log = all.of(log_component::loader);
      std::vector<std::byte> memory;
      CHECK(m.load_with(setup, 1, memory).empty());
    }
    return kept.messages("loader", m.layout.groups[1].name + " is read for host:0").size();
  };
  const auto streamed = [](std::size_t) { return true; };
  const auto stays = [](std::size_t) { return false; };
  CHECK(said(stays, log_level::debug) == 1);
  CHECK(said(nullptr, log_level::debug) == 1);
  CHECK(said(streamed, log_level::debug) == 0);
  CHECK(said(streamed, log_level::trace) == 1);
}

TEST_CASE("a NaN in a block's scale is an error that names the tensor") {
  const auto path = copy_of(testing::tiny_model(tensor_type::q4_0), "nan.gguf");
  loaded_model m(path);
  const auto& damaged = m.layout.config.layer_sources[0].ffn_down;
  {
    std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(damaged.offset + 18 * 5)); // the sixth block's scale
    out.write("\x00\x7e", 2);
  }
  std::vector<std::byte> memory;
  const auto failure = m.load(1, memory, loader_shape::for_model(m.layout, 2));
  CHECK_THAT(failure, Catch::Contains(damaged.name));
  CHECK(m.load(2, memory, loader_shape::for_model(m.layout, 2)).empty());
}

TEST_CASE("a file that was cut short after it was opened is an error, not a crash") {
  const auto path = copy_of(testing::tiny_model(tensor_type::q4_0), "short.gguf");
  loaded_model m(path);
  std::filesystem::resize_file(path, m.layout.config.layer_sources.back().ffn_down.offset);
  std::vector<std::byte> memory;
  CHECK_FALSE(m.load(m.layout.config.layers, memory, loader_shape::for_model(m.layout, 2)).empty());
}

TEST_CASE("a file that went away is an error with its name") {
  const auto path = copy_of(testing::tiny_model(tensor_type::q4_0), "gone.gguf");
  loaded_model m(path);
  std::filesystem::remove(path);
  std::vector<std::byte> memory;
  CHECK_THAT(m.load(0, memory, loader_shape::for_model(m.layout, 2)), Catch::Contains("gone.gguf"));
}

TEST_CASE("packed weights hold the bytes that packing gives, whatever the form of the layout") {
  const bool tied = GENERATE(true, false);
  const auto path = testing::tiny_model(tensor_type::q8_0, tied);
  const auto file = gguf_file::open(path);
  const auto folder = testing::scratch() / "packed-forms";
  std::filesystem::remove_all(folder);
  loaded_model m(path);
  const auto tiled = llama_layout::make(llama_config::read(file), weight_form::tiled, 60000);
  // With a head of its own the embedding is packed in one form only: the entries differ.
  CHECK((key_of_packed_weights(m.layout, file.files) == key_of_packed_weights(tiled, file.files)) == tied);
  {
    packed_weights building(folder, m.layout, file.files, nullptr);
    CHECK_FALSE(building.file());
    for (std::size_t g = 0; g < m.layout.groups.size(); ++g) {
      std::vector<std::byte> memory;
      REQUIRE(m.load(g, memory, loader_shape::for_model(m.layout, 2)).empty());
      building.store(g, memory.data());
      building.store(g, memory.data()); // again: no harm
    }
  }
  REQUIRE(find_packed_weights(folder, m.layout, file.files));
  CHECK(find_packed_weights(folder, tiled, file.files).has_value() == tied);

  if (tied)
    m.layout = tiled;
  for (std::size_t g = 0; g < m.layout.groups.size(); ++g) {
    if (m.layout.groups[g].bytes == 0)
      continue;
    for (const auto mode : {io_mode::direct, io_mode::buffered, io_mode::mmap}) {
      weight_loader_setup setup;
      setup.shape = loader_shape::for_model(m.layout, 2);
      setup.shape.packed_mode = mode;
      std::vector<std::byte> packed_here, packed_before;
      REQUIRE(m.load_with(setup, g, packed_here).empty());
      setup.packed_folder = folder;
      REQUIRE(m.load_with(setup, g, packed_before).empty());
      CHECK(packed_here == packed_before);
    }
  }
}

TEST_CASE("memory that is refused to the reading thread fails what it reads, and nothing after it") {
  loaded_model m(testing::tiny_model());
  auto shape = loader_shape::for_model(m.layout, 2);
  shape.slot_bytes = slot_bytes_for(m.layout, 1) + 2 * group_alignment; // many reads for a group
  std::vector<std::byte> sound;
  REQUIRE(m.load(0, sound, shape).empty());
  testing::fault_script script;
  for (const std::size_t read : {0, 1, 5})
    script.at(read, testing::read_fault::no_memory);
  std::vector<std::byte> staging(shape.staging_bytes() + 4096), memory(m.layout.groups[0].bytes + 2 * group_alignment);
  weight_loader_setup setup;
  setup.shape = shape;
  setup.layout = &m.layout;
  setup.dev = m.dev.get();
  setup.files = m.file.files;
  setup.staging = loaded_model::aligned(staging);
  setup.make_reader = [&](std::span<const std::filesystem::path> files, const reader_options& options) {
    return std::make_unique<testing::faulty_reader>(make_file_reader(files, options), script);
  };
  auto* const target = loaded_model::aligned(memory);
  weight_loader loader(setup);
  std::size_t refused = 0;
  for (;;) {
    std::promise<std::optional<error>> done;
    loader.load(0, target, [&](const error* why) { done.set_value(why ? std::optional(*why) : std::nullopt); });
    const auto failure = done.get_future().get();
    if (!failure)
      break;
    CHECK(failure->code() == errc::over_budget);
    REQUIRE(++refused <= 3);
  }
  CHECK(refused > 0);
  CHECK(std::memcmp(target, sound.data(), sound.size()) == 0);
}
