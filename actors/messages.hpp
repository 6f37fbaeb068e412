/// The messages of the cast, by conversation: which actor sends each, which one answers with what, and how it fails.
///
/// Messages are plain structs that stay in the process. A request that fails is answered with a `caf::error` of
/// category `tropilla` (`cast::from_caf` gives the code and the sentence); an actor that ended answers everything so.
#pragma once

#include "actors/engine_messages.hpp"
#include "actors/feeder_messages.hpp"
#include "actors/memory_messages.hpp"
#include "actors/request_messages.hpp"
#include "actors/step_messages.hpp"
#include "actors/supervision_messages.hpp"
#include "actors/weight_messages.hpp"
