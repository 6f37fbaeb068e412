/// Actions of `restart_rules` as sentences, so that tests compare lists of them.
#pragma once

#include "src/schedule/restart_rules.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace tropilla::testing {

using list = std::vector<std::string>;

[[nodiscard]] inline restart_rules::placement placement_named(const std::string& name) {
  return std::make_shared<const std::string>(name);
}

[[nodiscard]] inline const std::string& name_of(const restart_rules::placement& p) {
  return *static_cast<const std::string*>(p.get());
}

/// Empty leases of so many weight groups.
[[nodiscard]] inline std::vector<lease> leases(std::size_t groups) {
  return std::vector<lease>(groups);
}

/// One action. What a pipeline need not read is the rules' at that moment.
struct action_sentence {
  using r = restart_rules;
  std::string operator()(const r::log_restart& a) const {
    return "log restart " + std::to_string(a.start) + " of " + a.name + ": " + a.reason;
  }
  std::string operator()(const r::replace_member& a) const { return "replace member " + std::to_string(a.member); }
  std::string operator()(const r::tell_replaced&) const { return "tell: replaced"; }
  std::string operator()(const r::tell_down& a) const { return "tell: " + a.name + " is down: " + a.reason; }
  std::string operator()(const r::give_up_member& a) const {
    return "give up member " + std::to_string(a.member) + ": " + a.why.what();
  }
  std::string operator()(const r::close_compute& a) const { return std::string("close compute: ") + a.why.what(); }
  std::string operator()(const r::suspend_compute& a) const { return "suspend for " + name_of(a.next_placement); }
  std::string operator()(const r::stop_pipeline&) const { return "stop pipeline"; }
  std::string operator()(const r::spawn_pipeline& a) const {
    return "spawn pipeline for " + name_of(a.next_placement) + ", " + std::to_string(kept) + " kept";
  }
  std::string operator()(const r::spawn_compute&) const { return "spawn compute"; }
  std::string operator()(const r::resume_compute& a) const {
    return "resume with " + name_of(a.placement) + ", " + std::to_string(a.kept.size()) + " kept";
  }
  std::string operator()(const r::log_refusal& a) const { return "log refusal: " + a.why; }
  std::string operator()(const r::answer_change& a) const {
    return std::string("answer: ") + (a.failure ? a.failure->what() : "changed");
  }

  std::size_t kept = 0;
};

/// All of what `rules` answered last.
[[nodiscard]] inline list said(const restart_rules::actions& todo, const restart_rules& rules) {
  list out;
  for (const auto& a : todo)
    out.push_back(std::visit(action_sentence{rules.kept().size()}, a));
  return out;
}

} // namespace tropilla::testing
