/// Requests that differ from one another: in their prompts, every other one draws with a seed of its own.
#pragma once

#include "runtime/runtime_impl.hpp"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace tropilla::testing {

/// Submits the request of a number, for a reply of so many tokens.
inline std::shared_ptr<reply_channel> ask_varied(runtime_impl& rt, std::size_t number, std::size_t prompt_tokens,
                                                 std::size_t tokens) {
  std::vector<token_id> prompt;
  for (std::size_t n = 0; n < prompt_tokens; ++n)
    prompt.push_back(static_cast<token_id>(1 + (n * 7 + number * 13) % 900));
  generation_options o;
  o.max_tokens = tokens;
  o.ignore_eos = true;
  o.sampling.temperature = number % 2 ? 0.7 : 0;
  o.sampling.seed = number;
  auto channel = std::make_shared<reply_channel>();
  (void)rt.submit(rt.make_request(std::move(prompt), o, false, channel));
  return channel;
}

} // namespace tropilla::testing
