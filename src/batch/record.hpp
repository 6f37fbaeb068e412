/// Writes results as lines of the output, which is the journal of a batch at the same time: every record names the line
/// of the input that it answers ("line") and that line's fingerprint ("input").
#pragma once

#include "src/batch/request.hpp"
#include "tropilla/error.hpp"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace tropilla {

/// One of a request's replies, as its pieces come.
struct batch_output {
  std::string text;
  std::vector<token_id> ids;
  std::vector<std::vector<token_logprob>> logprobs; ///< by id, where asked for
  finish_reason finish = finish_reason::stop;

  void add(piece p);
};

/// Bytes that the replies to a tokenised request and their record take, at most, in a context of so many tokens.
[[nodiscard]] std::size_t reply_bytes(const batch_request& request, std::size_t context);

/// Facts that records need besides the request.
struct record_context {
  std::string model;                                    ///< its name
  std::int64_t created = 0;                             ///< seconds since 1970, for OpenAI's format
  std::function<std::string(token_id)> text_of_token{}; ///< for log-probabilities
};

/// The record of a result, a line with its line end: {"id", "line", "input", "text", "ids", "finish_reason", ...}, with
/// "texts", "ids" and "finish_reasons" as lists where the request wanted several replies; or OpenAI's object.
[[nodiscard]] std::string result_record(const batch_request& request, const std::vector<batch_output>& outputs,
                                        const generation_statistics& statistics, const record_context& context);
/// The record of a failure: {"id", "line", "input", "error"}, or OpenAI's with "response": null.
[[nodiscard]] std::string failure_record(const batch_request& request, errc code, std::string_view why);

/// The facts that the journal is read for.
struct record_mark {
  std::size_t line = 0;
  std::uint64_t fingerprint = 0;
  bool failed = false; ///< it has an error
};

/// Reads a record. Throws `error` (malformed_file) when the line is none; the sentence says what is missing.
[[nodiscard]] record_mark read_record(std::string_view line);

} // namespace tropilla
