/// A model with many small layers on devices whose budgets hold all of it beside few KV pages.
#pragma once

#include "src/placement/memory_balance.hpp"
#include "tests/support/tiny_model.hpp"

#include <numeric>

namespace tropilla::testing {

class balance_fixture {
public:
  static constexpr std::size_t context = 512, max_tokens = 2048, extent_pages = 4, layers = 24;
  static constexpr std::size_t context_pages = context / kv_page_tokens, max_pages = max_tokens / kv_page_tokens;

  /// `ranges`: of the devices.
  explicit balance_fixture(const std::vector<layer_range>& ranges = {{}}) {
    const auto file = gguf_file::open(tiny_model());
    placement_input input;
    input.model = llama_config::read(file);
    input.model.layers = layers;
    input.model.layer_sources.resize(layers, input.model.layer_sources.front());
    input.files = file.files;
    input.shape.context = context;
    input.shape.kv_tokens = max_tokens;
    input.shape.max_batch_tokens = 32;
    input.shape.logit_rows = input.shape.sequences = 8;
    for (const auto& range : ranges) {
      host_options options;
      options.name = "host:" + std::to_string(devices_.size());
      options.threads = 1;
      devices_.push_back(make_host_device(options));
      input.layers = range;
      input.dev = devices_.back().get();
      input.holds_requests = devices_.size() == 1;
      inputs.push_back(input);
    }
  }

  /// Bytes of a device with everything in memory and so many pages.
  [[nodiscard]] std::size_t whole(std::size_t pages, std::size_t device = 0) const {
    return place(inputs[device], 0, pages)->plan.total;
  }
  /// With so many pages beside all weights on each device.
  [[nodiscard]] memory_balance balance_with(std::size_t pages) const {
    std::vector<balanced_device> devices;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      devices.push_back({inputs[i], whole(pages, i)});
    return {std::move(devices), extent_pages};
  }

  std::vector<placement_input> inputs;

private:
  std::vector<std::shared_ptr<device>> devices_;
};

inline bool is_within_budgets(const memory_division& d) {
  std::size_t streamed = 0;
  bool within = true;
  for (const auto& p : d.placements) {
    within = within && p->plan.total <= p->budget && p->plan.kv_pages == d.kv_pages;
    streamed += p->streamed_bytes();
  }
  return within && streamed == d.streamed_bytes;
}

} // namespace tropilla::testing
