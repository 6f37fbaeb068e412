// Reading and packing weights: split groups, damage, and files that change under the reader.
#include "src/io/packed_mapping.hpp"
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
    setup.read_buffers = aligned(staging);
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
  cut.buffer_bytes = buffer_bytes_for(m.layout, 1) + 2 * group_alignment;
  cut.buffers = 3;
  REQUIRE(cut.buffer_bytes < whole.buffer_bytes);
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
      setup.is_streamed = std::move(streams);
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
    for (const auto mode : {io_mode::direct, io_mode::buffered}) {
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
  shape.buffer_bytes = buffer_bytes_for(m.layout, 1) + 2 * group_alignment; // many reads for a group
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
  setup.read_buffers = loaded_model::aligned(staging);
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

namespace {

/// A model, its packed weights, and what loading from them says.
struct packed_model : loaded_model {
  explicit packed_model(const char* name)
      : loaded_model(testing::tiny_model(tensor_type::q8_0)), folder(testing::scratch() / name) {
    std::filesystem::remove_all(folder);
    weight_loader_setup setup;
    setup.shape = loader_shape::for_model(layout, 2);
    packed_weights building(folder, layout, file.files, nullptr);
    for (std::size_t g = 0; g < layout.groups.size(); ++g) {
      right.emplace_back();
      REQUIRE(load(g, right[g], setup.shape).empty());
      building.store(g, right[g].data());
    }
  }

  [[nodiscard]] std::filesystem::path entry() const {
    return folder / key_of_packed_weights(layout, file.files).text();
  }
  [[nodiscard]] packed_file open() const { return *find_packed_weights(folder, layout, file.files); }
  [[nodiscard]] bool is_sound() const {
    const auto found = find_packed_weights(folder, layout, file.files);
    for (std::size_t i = 0; found && i < found->sections(); ++i)
      if (!found->verify(i).empty())
        return false;
    return found.has_value();
  }
  void write(std::uint64_t offset, std::size_t zeros) const {
    std::fstream out(entry(), std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(offset));
    out.write(std::string(zeros, '\0').data(), static_cast<std::streamsize>(zeros));
  }
  /// Loads all groups with one loader; true when all are right.
  [[nodiscard]] bool loads_right(io_mode mode, std::vector<std::string>& notices) {
    weight_loader_setup setup;
    setup.shape = loader_shape::for_model(layout, 2);
    setup.shape.packed_mode = mode;
    setup.packed_folder = folder;
    setup.layout = &layout;
    setup.dev = dev.get();
    setup.files = file.files;
    setup.notice = [&](std::string_view sentence) { notices.emplace_back(sentence); };
    std::vector<std::byte> staging(setup.shape.staging_bytes() + 4096);
    setup.read_buffers = aligned(staging);
    bool same = true;
    std::vector<std::vector<std::byte>> memory;
    for (const auto& g : layout.groups)
      memory.emplace_back(g.bytes + 2 * group_alignment, std::byte{0xee});
    weight_loader loader(setup);
    std::vector<std::promise<std::string>> done(layout.groups.size());
    for (std::size_t g = 0; g < done.size(); ++g)
      loader.load(g, aligned(memory[g]), [&, g](const error* why) { done[g].set_value(why ? why->what() : ""); });
    for (std::size_t g = 0; g < done.size(); ++g) {
      same = done[g].get_future().get().empty() && same;
      same = std::equal(right[g].begin(), right[g].end(), aligned(memory[g])) && same;
    }
    return same;
  }

  std::filesystem::path folder;
  std::vector<std::vector<std::byte>> right;
};

} // namespace

TEST_CASE("groups that are damaged where they are packed come from the model's files, and are mended with one notice") {
  const auto mode = GENERATE(io_mode::direct, io_mode::buffered);
  packed_model m("packed-damaged");
  std::vector<std::string> notices;
  CHECK(m.loads_right(mode, notices));
  CHECK(notices.empty());
  const auto file = m.open();
  for (std::size_t s = 0; s < file.sections(); s += 2) // some, and the first byte and the last
    m.write(file.offset(s) + (s % 4 == 0 ? 0 : file.section(s).bytes - 64), 64);
  CHECK_FALSE(m.is_sound());
  CHECK(m.loads_right(mode, notices));
  REQUIRE(notices.size() == 1);
  CHECK_THAT(notices.front(), Catch::Contains(m.entry().string()) && Catch::Contains("written over again"));
  CHECK(m.is_sound());
  CHECK(m.loads_right(mode, notices));
  CHECK(notices.size() == 1);
}

TEST_CASE("an entry that is cut short while it is read costs a notice, and is whole again afterwards") {
  const auto mode = GENERATE(io_mode::direct, io_mode::buffered);
  packed_model m("packed-short");
  std::vector<std::string> notices;
  const auto bytes = std::filesystem::file_size(m.entry());
  {
    // The notice comes after the entry was opened.
    weight_loader_setup setup;
    setup.shape = loader_shape::for_model(m.layout, 2);
    setup.shape.packed_mode = mode;
    setup.packed_folder = m.folder;
    setup.notice = [&](std::string_view sentence) { notices.emplace_back(sentence); };
    setup.make_reader = [&](std::span<const std::filesystem::path> files, const reader_options& options) {
      auto reader = make_file_reader(files, options);
      if (files.front() == m.entry())
        std::filesystem::resize_file(m.entry(), 4096);
      return reader;
    };
    std::vector<std::byte> memory;
    CHECK(m.load_with(setup, 2, memory).empty());
    CHECK(memory == m.right[2]);
  }
  CHECK(notices.size() == 1);
  CHECK(std::filesystem::file_size(m.entry()) == bytes);
  CHECK(m.loads_right(mode, notices));
  CHECK(m.is_sound());
}

TEST_CASE("an entry that is damaged where it was mended, or that can't be mended, is removed") {
  packed_model m("packed-hopeless");
  std::vector<std::string> notices;
  const auto file = m.open();
  {
    std::size_t damages = 0;
    packed_weights packed(m.folder, m.layout, m.file.files,
                          [&](std::string_view sentence) { notices.emplace_back(sentence); });
    REQUIRE(packed.file());
    for (; packed.file() && damages < 5; ++damages) {
      packed.damaged(1, "a test says so");
      packed.store(1, m.right[1].data());
    }
    CHECK(damages == 2);
  }
  REQUIRE(notices.size() == 2);
  CHECK_THAT(notices.back(), Catch::Contains("damaged again") && Catch::Contains("the next run packs them again"));
  CHECK_FALSE(std::filesystem::exists(m.entry()));

  packed_model other("packed-hopeless");
  notices.clear();
  {
    packed_weights packed(other.folder, other.layout, other.file.files,
                          [&](std::string_view sentence) { notices.emplace_back(sentence); });
    auto wrong = other.right[1];
    wrong[0] ^= std::byte{1};
    packed.damaged(1, "a test says so");
    packed.store(1, wrong.data());
    CHECK_FALSE(packed.file());
  }
  REQUIRE(notices.size() == 2);
  CHECK_THAT(notices.back(), Catch::Contains("other bytes"));
  CHECK_FALSE(std::filesystem::exists(other.entry()));
}

TEST_CASE("a mapped group is compared where it lies, and loaded into its place when it is damaged") {
  packed_model m("packed-mapped");
  const bool damaged = GENERATE(false, true);
  if (damaged)
    m.write(m.open().offset(1) + 100, 300);
  const auto file = m.open();
  const auto mapping = file.map();
  REQUIRE(mapping);
  weight_loader_setup setup;
  setup.shape = loader_shape::for_model(m.layout, 2);
  setup.packed_folder = m.folder;
  setup.mapping = mapping;
  setup.layout = &m.layout;
  setup.dev = m.dev.get();
  setup.files = m.file.files;
  std::vector<std::byte> staging(setup.shape.staging_bytes() + 4096);
  setup.read_buffers = loaded_model::aligned(staging);
  weight_loader loader(setup);
  for (int round = 0; round < 2; ++round) // once lost, all groups are loaded, and once
    for (std::size_t g = 0; g < m.layout.groups.size(); ++g) {
      std::promise<std::string> done;
      const auto& group = m.layout.groups[g];
      auto* const at = mapping->data() + file.offset(group.section) + group.section_offset;
      loader.verify_mapped(g, at, [&](const error* why) { done.set_value(why ? why->what() : ""); });
      CHECK(done.get_future().get() == "");
      CHECK(std::equal(m.right[g].begin(), m.right[g].end(), at));
    }
  CHECK(mapping->lost() == damaged);
  CHECK(m.is_sound());
}
