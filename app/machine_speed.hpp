/// Measures in about 0.3 s how fast this machine is for a run: reads of the model's file, memory, arithmetic.
#pragma once

#include "app/prediction.hpp"
#include "tropilla/runtime.hpp"

namespace tropilla::app {

/// Measures one after another, so that the measurements do not disturb each other: the file's reads, in the mode of
/// `config` or else around the page cache; a token's pass through the layers and that of a whole prompt, as the run
/// would compute them. What can't be measured stays 0. Threads and memory are given back. Throws only what
/// `gguf_file::open` and `llama_layout::make` throw for a file that `runtime::plan` would refuse, too.
[[nodiscard]] machine_speed measure_machine(const runtime_config& config, const plan_report& plan);

/// The bytes and operations of a step of a plan.
[[nodiscard]] step_cost cost_of(const runtime_config& config, const plan_report& plan);

} // namespace tropilla::app
