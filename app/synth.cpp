// `tropilla synth`: writes a random-weight model of a well-known shape.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/text.hpp"
#include "src/model/synth.hpp"

#include <atomic>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <memory>

namespace tropilla::app {
namespace {

struct synth_command_options {
  std::string shape = "mini";
  std::string type = "Q4_0";
  std::string output;
  std::size_t seed = 1;
  bool quiet = false;

  void bind(option_binder& b) {
    b.text({"-o,--output", "FILE", "where to write the GGUF file"}, output);
    b.text({"--shape", "NAME",
            "mini, mini-untied, mini-heads, mini-odd, mini-vocabulary, mini-wide, llama-3.2-1b, llama-3.2-3b or "
            "llama-3-8b"},
           shape);
    b.text({"--type", "NAME", "of the matrices: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K or IQ4_NL"},
           type);
    b.count({"-s,--seed", "N", "the same seed gives the same file"}, seed);
    b.flag({"-q,--quiet", "", "no progress"}, quiet);
  }
};

tensor_type find_type(const std::string& name) {
  if (const auto type = tensor_type_from_name(name))
    return *type;
  std::vector<std::string_view> names;
  for (const tensor_type_info& type : tensor_types())
    names.push_back(type.name);
  throw error(errc::invalid_argument,
              fmt::format("--type must be one of {}, not \"{}\"", fmt::join(names, ", "), escape(name)));
}

void execute(const synth_command_options& options, command_context& env) {
  if (options.output.empty())
    throw error(errc::invalid_argument, "no file to write: name one with -o FILE");
  const tensor_type type = find_type(options.type);
  progress shown("writing " + escape(options.output), progress::unit::bytes, options.quiet, env.status);
  // The writer removes its temporary file when the progress throws.
  std::atomic<bool> stop = false;
  const interrupts::scope on_interrupt(
      env.signals, [&](int) { stop = true; }, interrupts::patience);
  write_synthetic_model(expand_home(options.output), {.shape = options.shape, .type = type, .seed = options.seed},
                        [&](std::uint64_t done, std::uint64_t total) {
                          if (stop)
                            throw interrupted{};
                          shown.update(done, total);
                        });
  shown.finish();
}

} // namespace

command make_synth() {
  auto options = std::make_shared<synth_command_options>();
  return {.name = "synth",
          .summary = "write a random-weight model of a named shape",
          .help = {.about = "Writes a model with random weights, so that any size can be measured without a download.",
                   .usage = "tropilla synth -o FILE [options]",
                   .example = "  tropilla synth --shape llama-3.2-1b --type Q8_0 -o 1b-q8.gguf"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { execute(*options, env); }};
}

} // namespace tropilla::app
