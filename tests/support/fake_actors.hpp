/// Fakes of members of the cast that have no model, for tests of one member alone.
#pragma once

#include "actors/messages.hpp"

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

namespace tropilla::testing {

/// What a fake was asked, and whether it answers.
struct fake_script {
  explicit fake_script(bool does_answer = true) : answers(does_answer) {}
  const bool answers;
  std::atomic<std::size_t> asked = 0; ///< to compute, to draw, or to gather rows
  std::atomic<std::size_t> suspended = 0, resumed = 0, trimmed = 0;

  void wait_until_asked() const { asked.wait(0); }
  void count() {
    ++asked;
    asked.notify_all();
  }
};

struct fake_compute {
  static constexpr const char* actor_name = "compute";
  fake_compute(cast::compute_actor::pointer s, std::shared_ptr<fake_script> of) : self(s), play(std::move(of)) {}

  cast::compute_actor::behavior_type behaviour() {
    return {
        [this](const cast::run_step& m) -> caf::result<cast::step_computed> {
          play->count();
          if (!play->answers)
            return kept.emplace_back(self).promise();
          logits.assign(m.step->logit_rows.size() * vocabulary, 0);
          cast::step_computed out;
          out.output.logits = logits.data();
          return out;
        },
        [](const cast::job_done&) {},
        [](const cast::await_weights&) -> caf::result<cast::weights_resident> { return cast::weights_resident{}; },
        [](const cast::share_weights&) -> caf::result<cast::weights_shared> { return cast::weights_shared{}; },
        [this](const cast::suspend_compute& m) -> caf::result<cast::compute_suspended> {
          ++play->suspended;
          return cast::compute_suspended{m.next_placement, {}};
        },
        [this](const cast::resume_compute&) { ++play->resumed; },
    };
  }

  static constexpr std::size_t vocabulary = 300;
  cast::compute_actor::pointer self;
  std::shared_ptr<fake_script> play;
  std::vector<float> logits;
  std::vector<cast::pending_response<cast::step_computed>> kept; ///< answers that it never gives
};

struct fake_sampler {
  static constexpr const char* actor_name = "sampler";
  fake_sampler(cast::sampler_actor::pointer s, std::shared_ptr<fake_script> of) : self(s), play(std::move(of)) {}

  cast::sampler_actor::behavior_type behaviour() {
    return {
        [this](const cast::draw_tokens& m) -> caf::result<cast::tokens_drawn> {
          play->count();
          if (!play->answers)
            return kept.emplace_back(self).promise();
          return cast::tokens_drawn{std::vector<drawn_token>(m.draws.size(), {token_id{65}, {}})};
        },
    };
  }

  cast::sampler_actor::pointer self;
  std::shared_ptr<fake_script> play;
  std::vector<cast::pending_response<cast::tokens_drawn>> kept; ///< answers that it never gives
};

/// Groups are always there, and empty.
struct fake_prefetcher {
  static constexpr const char* actor_name = "prefetcher";
  explicit fake_prefetcher(cast::prefetcher_actor::pointer) {}

  cast::prefetcher_actor::behavior_type behaviour() {
    return {
        [](const cast::need_group& m) -> caf::result<cast::group_ready> {
          return cast::group_ready{m.group, {}};
        },
        [](const cast::release_group&) {},
        [](const cast::announce_step&) {},
        [](const cast::abandon_step&) {},
        [](const cast::shrink_ring&) {},
    };
  }
};

/// Loads nothing. Its script says whether it answers who asks for rows of the embedding.
struct fake_loader {
  static constexpr const char* actor_name = "loader";
  fake_loader(cast::loader_actor::pointer s, std::shared_ptr<fake_script> of) : self(s), play(std::move(of)) {}

  cast::loader_actor::behavior_type behaviour() {
    return {
        [](const cast::load_group& m) -> caf::result<cast::group_loaded> { return cast::group_loaded{m.group}; },
        [this](const cast::look_up_embedding&) -> caf::result<cast::embedding_ready> {
          play->count();
          if (!play->answers)
            return rows.emplace_back(self).promise();
          return cast::embedding_ready{};
        },
        [](const cast::transfer_done&) {},
        [this](const cast::trim_staging&) { ++play->trimmed; },
    };
  }

  cast::loader_actor::pointer self;
  std::shared_ptr<fake_script> play;
  std::vector<cast::pending_response<cast::embedding_ready>> rows; ///< answers that it never gives
};

} // namespace tropilla::testing
