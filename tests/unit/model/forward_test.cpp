// The forward pass through loader, packing and kernels against plain loops in double precision.
#include "src/io/weight_loader.hpp"
#include "src/model/llama.hpp"
#include "tests/support/naive_llama.hpp"
#include "tests/support/tiny_model.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <future>
#include <numeric>

using namespace tropilla;

namespace {

/// Memory for groups: aligned, and with room up to the next multiple.
class aligned_bytes {
public:
  explicit aligned_bytes(std::size_t n) : bytes_(n + 2 * group_alignment) {}
  [[nodiscard]] std::byte* get() {
    const auto at = reinterpret_cast<std::uintptr_t>(bytes_.data());
    return bytes_.data() + (group_alignment - at % group_alignment) % group_alignment;
  }

private:
  std::vector<std::byte> bytes_;
};

/// A model with all of its weights loaded and room for one sequence, without actors.
class bench_top {
public:
  bench_top(const std::filesystem::path& path, const host_options& options, run_shape s,
            weight_form form = weight_form::whole, std::size_t tile_bytes = 0)
      : file(gguf_file::open(path)), layout(llama_layout::make(llama_config::read(file), form, tile_bytes)), shape(s),
        dev(make_host_device(options)), loading(loader_shape::for_model(layout, 2)), staging(loading.staging_bytes()),
        loader({.layout = &layout,
                .dev = dev.get(),
                .files = file.files,
                .shape = loading,
                .read_buffers = staging.get()}) {
    for (std::size_t g = 0; g < layout.groups.size(); ++g) {
      groups.emplace_back(layout.groups[g].bytes);
      views.push_back(groups.back().get());
      if (layout.groups[g].bytes > 0)
        REQUIRE(wait_for([&](auto done) { loader.load(g, groups.back().get(), done); }));
    }
    const auto plan = make_plan(make_plan_input(layout, shape, *dev, 0));
    activations.emplace_back(plan.activations.bytes);
    activations.emplace_back(workspace_bytes(layout, shape, *dev));
    space = std::make_unique<llama_workspace>(layout, shape, *dev, activations[0].get(), plan.activations.offsets,
                                              activations[1].get());
    for (std::size_t p = 0; p * kv_page_tokens < shape.context; ++p) {
      page_memory.emplace_back(kv_page_bytes(layout, shape.kv));
      pages.push_back(page_memory.back().get());
    }
  }

  /// Logits of all of `ids`, computed in steps of at most `rows`.
  std::vector<float> logits(std::span<const token_id> ids, std::size_t rows) {
    std::vector<float> out;
    for (std::size_t at = 0; at < ids.size(); at += rows) {
      const auto n = std::min(rows, ids.size() - at);
      step s;
      s.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(at), ids.begin() + static_cast<std::ptrdiff_t>(at + n));
      s.sequences.push_back({0, n, at, pages.data()});
      s.logit_rows.resize(n);
      std::iota(s.logit_rows.begin(), s.logit_rows.end(), std::size_t{0});
      if (layout.embedding_on_disk())
        REQUIRE(wait_for([&](auto done) { loader.look_up(s.ids, space->floats(buffer::hidden), done); }));
      dev->enqueue([&](ops& o) { forward_groups(o, layout, *space, s, views, 0, views.size()); });
      dev->compute_stream().synchronize();
      const auto* l = space->floats(buffer::logits);
      out.insert(out.end(), l, l + n * layout.config.vocabulary);
    }
    return out;
  }

  /// True when what `start` begins ends well.
  template <class F>
  static bool wait_for(F start) {
    std::promise<bool> ended;
    start([&](const error* failure) { ended.set_value(!failure); });
    return ended.get_future().get();
  }

  gguf_file file;
  llama_layout layout;
  run_shape shape;
  std::unique_ptr<device> dev;
  loader_shape loading;
  aligned_bytes staging;
  weight_loader loader;
  std::vector<aligned_bytes> groups, activations, page_memory;
  std::vector<const std::byte*> views;
  std::vector<std::byte*> pages;
  std::unique_ptr<llama_workspace> space;
};

/// Root of the mean squared difference, relative to the reference's spread.
double relative_error(std::span<const float> ours, const std::vector<std::vector<double>>& reference) {
  double difference = 0, spread = 0;
  std::size_t i = 0;
  for (const auto& row : reference)
    for (const double r : row) {
      const double d = static_cast<double>(ours[i++]) - r;
      difference += d * d;
      spread += r * r;
    }
  return std::sqrt(difference / spread);
}

constexpr run_shape small{96, 48, 48};

} // namespace

TEST_CASE("the forward pass gives the logits of plain double precision loops, for every tensor type") {
  const auto type =
      GENERATE(tensor_type::f32, tensor_type::f16, tensor_type::bf16, tensor_type::q4_0, tensor_type::q4_1,
               tensor_type::q5_0, tensor_type::q5_1, tensor_type::q8_0, tensor_type::q2_k, tensor_type::q3_k,
               tensor_type::q4_k, tensor_type::q5_k, tensor_type::q6_k, tensor_type::iq4_nl);
  const auto path = testing::tiny_model(type);
  host_options options;
  options.threads = 2;
  options.precise = true;
  bench_top precise(path, options, small);
  const auto ids = synthetic_ids(40, precise.layout.config.vocabulary);
  const auto reference = testing::naive_llama(precise.file).logits(ids);
  INFO(info(type).name);
  CHECK(relative_error(precise.logits(ids, 48), reference) < 2e-3); // keys and values are half precision

  options.precise = false;
  bench_top quantised(path, options, small);
  CHECK(relative_error(quantised.logits(ids, 48), reference) < 3e-2);
}

TEST_CASE("keys and values of fewer bits change the logits by as much as they round away") {
  const auto path = testing::tiny_model(tensor_type::f32);
  host_options options;
  options.threads = 2;
  options.precise = true;
  bench_top halves(path, options, small);
  const auto ids = synthetic_ids(40, halves.layout.config.vocabulary);
  const auto reference = testing::naive_llama(halves.file).logits(ids);
  for (const auto& [type, most] : {std::pair{kv_type::bf16, 1e-2}, std::pair{kv_type::q8_0, 2e-2}}) {
    run_shape shape = small;
    shape.kv = type;
    bench_top other(path, options, shape);
    const double error = relative_error(other.logits(ids, 48), reference);
    INFO(to_string(type) << " " << error);
    CHECK(error < most);
    CHECK(error > relative_error(halves.logits(ids, 48), reference));
  }
}

TEST_CASE("logits do not depend on how a prompt is cut into steps, nor on the number of threads") {
  const auto path = testing::tiny_model(tensor_type::q4_k);
  const auto type = GENERATE(kv_type::f16, kv_type::bf16, kv_type::q8_0);
  run_shape shape = small;
  shape.kv = type;
  INFO(to_string(type));
  host_options options;
  options.threads = 1;
  bench_top one(path, options, shape);
  const auto ids = synthetic_ids(70, one.layout.config.vocabulary);
  const auto expected = one.logits(ids, 48);
  for (const std::size_t rows : {1, 7, 32, 33}) {
    const auto got = one.logits(ids, rows);
    INFO(rows << " rows a step");
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
  }
  options.threads = 3;
  bench_top three(path, options, shape);
  const auto got = three.logits(ids, 48);
  CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
}

TEST_CASE("tiles of the head and rows looked up on disk give the logits of the whole, for tied and untied heads") {
  const bool tied = GENERATE(true, false);
  const auto type = GENERATE(tensor_type::q8_0, tensor_type::f32, tensor_type::f16);
  const auto path = testing::tiny_model(type, tied);
  host_options options;
  options.threads = 2;
  bench_top whole(path, options, small);
  bench_top tiled(path, options, small, weight_form::tiled, 40000);
  INFO(info(type).name << (tied ? " tied" : " untied"));
  REQUIRE(tiled.layout.groups.size() > whole.layout.groups.size() + 1);
  for (const auto& g : tiled.layout.groups)
    CHECK(g.section_offset % group_alignment == 0);
  const auto ids = synthetic_ids(40, whole.layout.config.vocabulary);
  const auto expected = whole.logits(ids, 48);
  const auto got = tiled.logits(ids, 17);
  CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
}
