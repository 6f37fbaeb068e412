// Any bytes as a line of a batch: it is a request, or its failure says why not; and its records can be read again.
#include "src/batch/record.hpp"
#include "src/batch/request.hpp"
#include "src/schedule/sequence.hpp"
#include "tropilla/error.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

using namespace tropilla;

namespace {

void require(bool holds) {
  if (!holds)
    std::abort();
}

/// The journal finds a line by its record, so that it has to be one line and to name it.
void check_record(const std::string& record, const batch_request& r) {
  require(record.ends_with('\n') && std::ranges::count(record, '\n') == 1);
  const record_mark mark = read_record(std::string_view(record).substr(0, record.size() - 1));
  require(mark.line == r.line && mark.fingerprint == r.fingerprint);
}

/// What a scheduler does first.
void check_options(const batch_request& r) {
  sequence_request request;
  request.prompt = {1, 2, 3};
  if (!r.prompts.empty())
    if (const auto* ids = std::get_if<std::vector<token_id>>(&r.prompts.front()))
      request.prompt = *ids;
  request.options = r.options;
  try {
    check_request(request, {1000, 64, 64});
    require(std::isfinite(r.options.sampling.temperature) && r.options.outputs > 0);
  } catch (const error& e) {
    require(e.code() == errc::invalid_argument || e.code() == errc::context_full);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  input_line line;
  line.number = 7;
  line.text.assign(reinterpret_cast<const char*>(data), size);
  line.bytes = size + 1;
  const batch_request r = parse_batch_request(line, {});
  if (r.failure) {
    require(!r.failure->empty());
    check_record(failure_record(r, errc::invalid_argument, *r.failure), r);
    return 0;
  }
  check_options(r);
  std::vector<batch_output> outputs(std::min<std::size_t>(r.options.outputs, 3));
  for (auto& one : outputs) {
    one.add(
        {5, "a",
         r.options.logprobs > 0 ? std::vector<token_logprob>{{5, -1.0F}, {6, -2.0F}} : std::vector<token_logprob>{}});
    one.add({-1, "\xff\n"});
  }
  check_record(result_record(r, outputs, {}, {"a model", 0, [](token_id) { return std::string("t\x80"); }}), r);
  return 0;
}
