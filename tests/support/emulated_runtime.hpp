/// A runtime over the tiny model on emulated GPUs.
#pragma once

#include "runtime/runtime_impl.hpp"
#include "tests/support/cuda_cases.hpp"
#include "tests/support/emulated_gpu.hpp"
#include "tests/support/tiny_runtime.hpp"

#include <catch2/catch.hpp>
#include <memory>
#include <vector>

namespace tropilla::testing {

/// GPUs by their numbers; a GPU behind the last is like the last.
inline runtime_hooks on_emulated(std::vector<std::shared_ptr<gpu_script>> scripts) {
  runtime_hooks hooks;
  hooks.open_gpu = [scripts = std::move(scripts)](int index) {
    return std::make_unique<emulated_gpu>(scripts[std::min(static_cast<std::size_t>(index), scripts.size() - 1)]);
  };
  return hooks;
}
inline runtime_hooks on_emulated(std::shared_ptr<gpu_script> script) {
  return on_emulated(std::vector{std::move(script)});
}

inline runtime_config cuda_config(std::size_t budget = 0) {
  auto c = tiny_config(2, 96);
  c.devices = {{"cuda:0", budget}};
  c.sequences = 2;
  c.max_batch_tokens = 4; // two steps for the prompt
  return c;
}

inline void require_all_given_back(const gpu_script& script) {
  CHECK(script.mapped == 0);
  CHECK(script.host_blocks == 0);
  CHECK(script.streams == 0);
  CHECK(script.graphs == 0);
}

} // namespace tropilla::testing
