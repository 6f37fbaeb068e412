// Declares options that several commands have: the model and how it runs, how a reply is drawn.
#include "app/options.hpp"

#include "app/command.hpp"
#include "app/files.hpp"

#include <limits>

namespace tropilla::app {
namespace {

constexpr std::size_t max_tokens = std::numeric_limits<std::int32_t>::max();

} // namespace

void model_options::bind(option_binder& b) {
  b.group("Model");
  b.path({"-m,--model", "FILE", model_meaning, model_otherwise}, config.model);
  b.choice({"--template", "NAME", "how a conversation is written for the model", "the model's own"},
           config.chat_template, {"llama3", "chatml"});
  b.group("Memory and speed");
  b.count({"-c,--ctx", "N", "tokens of a sequence, prompt and reply together", context_otherwise}, config.context,
          {.min = 1, .max = max_tokens});
  b.device_bytes(
      {"--budget", "BYTES",
       "the most that may be leased, like 300MiB or 80% of what may be used; what does not fit is streamed. "
       "cuda:0 alone is a GPU with what it has free; one for each device (host:0=1GiB,cuda:0=6GiB) divides "
       "the layers between them",
       "what the plan needs, or may use",
       ". `host:0` alone has what the plan needs; each of several may have a share, `host:0=30%,host:1=20%`. "
       "[Memory](memory.md#the-budget) says what a budget limits, and [what holds without "
       "one](memory.md#without-a-budget)"},
      config.devices);
  b.text({"--split", "HOW",
          "how devices divide the model: pipeline=2 gives each some of the layers, tensor=2 a share of every layer, "
          "which they compute at the same time; pipeline=2,tensor=2 both. Without devices in --budget they are "
          "devices of the host, which divide the budget and, without --threads, the cores",
          "the layers, between the devices of --budget",
          ". [Several devices](memory.md#several-devices) compares them"},
         config.split);
  b.flag({"--yield-memory", "", "budgets of the host go down while the machine is short of memory, and up again later",
          "", "; [how](memory.md#a-machine-that-is-short-of-memory)"},
         config.yield_memory);
  b.count({"--parallel", "N", "sequences that are computed together; others wait", parallel_otherwise},
          config.sequences, {.min = 1, .max = max_sequences});
  b.count({"--kv", "TOKENS", "tokens that may have KV pages at once, of all sequences",
           "a context for each sequence, at most four"},
          config.kv_tokens, {.min = 1, .max = max_tokens});
  b.bytes({"--kv-host", "BYTES", "memory besides the budget for keys and values that leave it: read back, not computed",
           "none", ". [Memory](memory.md#keys-and-values-that-leave) says when it pays"},
          config.kv_host_bytes);
  b.bytes({"--kv-disk", "BYTES", "the same on the disk, where a conversation finds its own after a restart", "none"},
          config.kv_disk_bytes);
  b.path({"--kv-folder", "FOLDER", "where --kv-disk has its files", "~/.cache/tropilla/kv",
          "; `$XDG_CACHE_HOME/tropilla/kv` where that is set"},
         config.kv_folder);
  b.choice({"--kv-type", "TYPE", "how keys and values are stored", "f16",
            "; `q8_0` takes [half the bytes](benchmarks.md#kv-types)"},
           config.kv_type, {"f16", "bf16", "q8_0"});
  b.count({"-t,--threads", "N", "threads that compute, on each device of the host", "the cores that it may use",
           "; affinity and cgroup limits are respected"},
          config.threads, {.min = 1, .max = 1024});
  b.choice({"--isa", "NAME", "instruction set of the kernels", "the best that there is"}, config.isa,
           {"scalar", "avx2", "avx512"});
  b.choice({"--io", "MODE", "how weights are read", "as suits the plan",
            "; `direct` is O_DIRECT, see [memory](memory.md#how-weights-are-read)"},
           config.io, {"mmap", "direct", "buffered"});
  b.flag({"--no-cache", "", "neither use packed weights of earlier runs nor leave any"}, no_cache);
  b.bytes({"--pinned", "BYTES", "page-locked memory of the host in which weights stay that GPUs stream", "",
           ": read once, copied for every step"},
          config.pinned_bytes);
  b.flag({"--precise", "", "activations in float32: slower, for comparisons"}, config.precise);
  b.path({"--trace", "FILE", "write what every actor did, for Perfetto or chrome://tracing", "",
          "; on GPUs what every stream did, too"},
         config.trace);
  b.log_levels({"--log-level", "LEVELS",
                "log what the runtime does: trace, debug, info, warning, error or off, for all "
                "components or for some (info,loader=debug)"},
               log.levels);
  b.flag({"--log-json", "", "log a JSON object a line"}, log.json);
  b.text({"--log-file", "FILE", "log to this file, at its end, and not to standard error"}, log.file);
  b.group("Output");
  b.flag({"-q,--quiet", "", "no progress, no notes, no figures"}, quiet);
}

runtime_config model_options::to_config(const command_context& env, std::size_t sequences) const {
  runtime_config resolved = config;
  resolved.model = env.choose_model(config.model.string());
  resolved.trace = expand_home(config.trace.string());
  if (resolved.sequences == 0)
    resolved.sequences = sequences;
  if (!no_cache)
    resolved.packed_cache = packed_cache_directory();
  resolved.kv_folder = resolved.kv_folder.empty() ? kv_directory() : expand_home(resolved.kv_folder.string());
  return resolved;
}

std::size_t max_context(const runtime_config& config) noexcept {
  return config.context > 0 ? config.context : default_context;
}

void reply_options::bind(option_binder& b) {
  auto& sampling = generation.sampling;
  using limits = sampling_limits;
  b.group("Reply");
  b.count({"-n,--max-tokens", "N", "tokens of a reply, at most; -1: until the context is full", "",
           ", or without end where it shifts"},
          generation.max_tokens,
          {.min = 1,
           .max = max_tokens,
           .minus_one = "until the context is full",
           .minus_one_is = std::numeric_limits<std::size_t>::max()});
  b.texts({"--stop", "TEXT",
           R"(text that ends a reply and is not part of it; may be given more than once, and knows \n, \t and \xHH)"},
          generation.stop);
  b.flag({"--ignore-eos", "", "go on past the end of the reply"}, generation.ignore_eos);
  b.flag({"--context-shift,!--no-context-shift", "", "when the context is full, forget its older half and go on", "",
          "; with `--no-context-shift` the reply ends there"},
         generation.context_shift);
  b.count({"--context-keep", "N", "with --context-shift: never forget the first N tokens", "",
           "; less than half of the context"},
          generation.context_keep);
  b.group("Sampling");
  b.number({"--temp", "X", "temperature; 0 takes the most probable token"}, sampling.temperature,
           limits::temperature.typed);
  b.seed({"-s,--seed", "N", "the same seed gives the same text; -1 draws one and says which", "",
          " (`run` in its last line and in `--json`)"},
         sampling.seed, seed_drawn);
  b.count({"--top-k", "N", "keep the N most probable tokens; 0: all"}, sampling.top_k,
          {.minus_one = "all", .minus_one_is = 0});
  b.number({"--top-p", "X", "keep the most probable tokens that together have this probability; 1: all"},
           sampling.top_p, limits::top_p.typed);
  b.number({"--min-p", "X", "keep tokens with at least this share of the most probable one's probability; 0: all"},
           sampling.min_p, limits::min_p.typed);
  b.number({"--typical-p", "X", "keep the tokens that surprise as much as expected, up to this probability; 1: all"},
           sampling.typical_p, limits::typical_p.typed);
  b.number({"--repeat-penalty", "X", "divides the logits of tokens that prompt or reply have; 1: none", "",
            "; logits below 0 are multiplied by it"},
           sampling.repetition_penalty, limits::repetition_penalty.typed);
  b.number({"--frequency-penalty", "X", "taken from a token's logit for each time that the reply has it"},
           sampling.frequency_penalty, limits::frequency_penalty.typed);
  b.number({"--presence-penalty", "X", "taken from a token's logit when the reply has it"}, sampling.presence_penalty,
           limits::presence_penalty.typed);
  b.count({"--penalty-window", "N", "penalties count the last N tokens; 0: all"}, sampling.penalty_window,
          {.minus_one = "all", .minus_one_is = 0});
}

} // namespace tropilla::app
