// A model on one device without actors, all of its weights loaded: what tests of the forward pass compute with.
#pragma once

#include "src/io/weight_loader.hpp"
#include "src/model/llama.hpp"

#include <catch2/catch.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace tropilla::testing {

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
class lone_model {
public:
  lone_model(const std::filesystem::path& path, const host_options& options, run_shape s,
             weight_form form = weight_form::whole, std::size_t tile_bytes = 0, std::optional<tensor_share> share = {})
      : file(gguf_file::open(path)),
        layout(llama_layout::make(llama_config::read(file), form, tile_bytes, {}, std::move(share))), shape(s),
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

  /// Logits of all of `ids`, computed in steps of at most `rows`; in a group, those that this rank has. `step_ends` is
  /// called after each step.
  std::vector<float> logits(std::span<const token_id> ids, std::size_t rows, communicator* group = nullptr,
                            const std::function<void()>& step_ends = {}) {
    std::vector<float> out;
    for (std::size_t at = 0; at < ids.size(); at += rows) {
      const auto n = std::min(rows, ids.size() - at);
      step s;
      s.ids.assign(ids.begin() + static_cast<std::ptrdiff_t>(at), ids.begin() + static_cast<std::ptrdiff_t>(at + n));
      s.sequences.push_back({0, n, at, pages.data()});
      s.logit_rows.resize(n);
      std::iota(s.logit_rows.begin(), s.logit_rows.end(), std::size_t{0});
      if (layout.embedding_on_disk())
        if (!wait_for([&](auto done) { loader.look_up(s.ids, space->floats(buffer::hidden), done); }))
          throw std::runtime_error("rows of the embedding can't be read"); // ranks are on threads, Catch on one
      dev->enqueue([&](ops& o) { forward_groups(o, layout, *space, s, views, 0, views.size(), group); });
      dev->compute_stream().synchronize();
      if (step_ends)
        step_ends();
      const auto* l = space->floats(buffer::logits);
      out.insert(out.end(), l, l + n * layout.logits_width());
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

} // namespace tropilla::testing
