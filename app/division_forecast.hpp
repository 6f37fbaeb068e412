/// Shows between which divisions of a budget memory flows, KV pages against weights, and predicts where it should.
#pragma once

#include "app/prediction.hpp"
#include "tropilla/types.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace tropilla::app {

/// Predictions for a plan's divisions.
struct flow_prediction {
  /// The least number of sequences, each of so many tokens, of which another division decodes more tokens per second,
  /// because more of them have pages, than the first one that has pages for one of them.
  struct crossing {
    std::size_t tokens = 0;
    std::optional<std::size_t> sequences; ///< empty: none that are computed together
  };
  std::vector<std::optional<double>> one_sequence; ///< tokens per second, by division; empty where a speed is missing
  std::vector<crossing> crossings;                 ///< of a whole context, and of a quarter
};

/// `cost`: of the plan's steps. @pre the plan has divisions
[[nodiscard]] flow_prediction predict_flow(const plan_report& plan, const step_cost& cost, const machine_speed& speed);

/// The two ends, as sentences that end with a line end; empty for a plan with less than two divisions.
[[nodiscard]] std::string describe_ends(const plan_report& plan);
/// The lines below those of the prediction of a plan; empty where there are no two ends, or a speed is missing.
[[nodiscard]] std::string describe(const flow_prediction& flow, const plan_report& plan);

} // namespace tropilla::app
