/// Streams a reply to standard output, and shows what it cost, as a line, as details and as JSON.
#pragma once

#include "app/command.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla::app {

/// The parts of a reply that are kept when it has ended.
enum class reply_keeps : std::uint8_t {
  nothing, ///< it was shown
  text,
  all ///< ids and log-probabilities, too
};

/// Bytes that a reply to a request with these options may take, of all outputs together.
[[nodiscard]] std::size_t kept_bytes(const generation_options& options, reply_keeps keeps, std::size_t context);

/// One output of a reply, as far as it is kept.
struct reply_output {
  std::string text;
  std::vector<token_id> ids;                     ///< the generated ones
  std::vector<token_logprob> logprobs;           ///< where asked for, of one token after another: its own, then the top
  std::vector<std::uint8_t> logprobs_of_token{}; ///< how many each has
  finish_reason finish = finish_reason::cancelled;
};

/// A reply that ended.
struct finished_reply {
  std::vector<reply_output> outputs; ///< at least one
  generation_statistics statistics;
  double first_token_seconds = 0; ///< from the process's start for the first reply of a process; 0: there was none
  std::uint64_t seed = 0;
  bool seed_drawn = false; ///< the user does not know it yet
};

/// What the program does when Ctrl-C goes unanswered, or is pressed twice.
enum class unanswered : std::uint8_t { stays, quits };

/// Reads the reply to a request with these options to its end, and keeps of it what `keeps` says. `show` gets each
/// piece as it comes; Ctrl-C cancels. Throws what the reply throws.
[[nodiscard]] finished_reply read_reply(generation& reply, const reply_options& options, reply_keeps keeps,
                                        command_context& env, const std::function<void(const piece&)>& show,
                                        unanswered program);

/// "31 tokens in, 42 out; prefill 801.2 tok/s, decode 171.3 tok/s; first token after 0.29 s; memory: 118.2 MiB planned,
/// 118.2 MiB peak", without rates that were not measured, and with a seed that was drawn.
[[nodiscard]] std::string summary_line(const finished_reply& reply, const runtime& rt);

/// A few more lines about a reply: threads, instruction set, overhead, budget and peak of each device, resident set.
[[nodiscard]] std::string details(const finished_reply& reply, const runtime& rt);

/// Writes the reply and the runtime's figures as a JSON object for scripts, piece by piece, since it is many times as
/// large as the reply that was kept. `ttft_s` is `first_token_seconds`; text and ids are the first output's, and where
/// there are several, `outputs` has them all. @pre all was kept
void write_json(const finished_reply& reply, const runtime& rt, const std::function<void(std::string_view)>& write);

} // namespace tropilla::app
