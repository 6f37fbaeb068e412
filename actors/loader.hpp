/// Reads and packs weight groups, in the order in which they are asked for.
#pragma once

#include "actors/messages.hpp"
#include "src/io/weight_loader.hpp"

#include <functional>
#include <memory>
#include <vector>

namespace tropilla::cast {

/// What a loader needs. The layout, the device and the trace outlive the actor.
struct loader_setup {
  const llama_layout* layout = nullptr;
  std::vector<std::filesystem::path> files;
  device* dev = nullptr;
  loader_shape shape;
  lease staging;
  std::vector<bool> streamed; ///< by group: not counted as progress, because they are loaded again and again
  tracer* trace = nullptr;
  std::function<void(const load_progress&)> on_progress; ///< called on the loader's thread, per group; may be empty
};

/// Detached: it waits for reads. Opens the files when the first group is asked for; a failure answers that request.
[[nodiscard]] loader_actor spawn_loader(caf::actor_system& system, loader_setup setup);

} // namespace tropilla::cast
