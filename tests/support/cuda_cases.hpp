// What tests of CUDA devices compare with the host, over an emulated GPU and over a real one.
#pragma once

#include "runtime/runtime_impl.hpp"
#include "tests/support/difference.hpp"

#include <vector>

namespace tropilla::testing {

/// Logits of a sequence, row by row: what text can hide, they show.
inline std::vector<float> logits_of(runtime_impl& rt, const std::vector<token_id>& ids) {
  const auto channel = std::make_shared<reply_channel>();
  const auto id = rt.submit(rt.make_request(ids, {}, true, channel));
  std::vector<float> out;
  while (const auto rows = channel->next_logits()) {
    out.insert(out.end(), rows->values.begin(), rows->values.end());
    (void)cast::ask_role<cast::request_accepted>(*rt.system, *rt.scheduler, cast::logits_read{id});
  }
  return out;
}

inline std::vector<token_id> reply_of(runtime_impl& rt, std::vector<token_id> prompt, const generation_options& o) {
  const auto channel = std::make_shared<reply_channel>();
  (void)rt.submit(rt.make_request(std::move(prompt), o, false, channel));
  std::vector<token_id> ids;
  while (const auto p = channel->next_piece())
    ids.push_back(p->id);
  return ids;
}
inline std::vector<token_id> reply_of(runtime_impl& rt, std::vector<token_id> prompt, std::size_t tokens) {
  generation_options o;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  return reply_of(rt, std::move(prompt), o);
}

inline const std::vector<token_id> prompt{1, 17, 42, 5, 99, 7, 250};

} // namespace tropilla::testing
