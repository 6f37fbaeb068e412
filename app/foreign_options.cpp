// The tables of other programs' options. Names are those of llama.cpp's common/arg.cpp (tools/cli/README.md lists them)
// and of ollama's command line.
#include "app/foreign_options.hpp"

#include <algorithm>
#include <array>

namespace tropilla::app {
namespace {

using fate = foreign_option::fate;
using operand = foreign_option::operand;

constexpr std::string_view on_gpus =
    "changes nothing: --budget cuda:0 puts the model on a GPU, as many layers as fit, and streams the rest";
constexpr std::string_view no_downloads =
    "is not supported, because tropilla downloads nothing: fetch the GGUF file with a browser or `hf download`, and "
    "name "
    "it with -m FILE; files in the caches of Hugging Face, LM Studio and llama.cpp and in ~/.cache/tropilla/models are "
    "found by their names (tropilla models lists them)";
constexpr std::string_view no_sampler =
    "is not supported: of the samplers tropilla has --temp, --top-k, --top-p, --min-p, "
    "--typical-p and three penalties";
constexpr std::string_view no_grammar = "is not supported: tropilla does not constrain what a model writes";
constexpr std::string_view no_adapters = "is not supported: merge adapters into the model's weights first";
constexpr std::string_view no_media = "is not supported: tropilla reads and writes text only";
constexpr std::string_view no_drafts = "is not supported: tropilla has no speculative decoding";
constexpr std::string_view no_server =
    "is not supported: tropilla has no server yet; chat, run and batch answer locally";
constexpr std::string_view placement = "is not supported: --budget names devices and what of each may be used, like "
                                       "--budget cuda:0=6GiB,cuda:1=6GiB, and divides the layers between them";
constexpr std::string_view of_the_file = "is not supported: such figures are taken from the model's file";
constexpr std::string_view how_to_read = "is --io here: mmap, direct or buffered";
constexpr std::string_view a_conversation = "asks for a conversation, and that is `tropilla chat`";
constexpr std::string_view always_a_conversation = "changes nothing: chat is a conversation always";
constexpr std::string_view of_the_system = "changes nothing: threads run where the system puts them; taskset, numactl "
                                           "and nice are obeyed";

constexpr std::array options = std::to_array<foreign_option>({
    {"--ctx-size,--context,--n-ctx,--num-ctx", fate::renamed, operand::one, "ctx"},
    {"--predict,--n-predict,--num-predict,--max-new-tokens", fate::renamed, operand::one, "max-tokens"},
    {"--temperature", fate::renamed, operand::one, "temp"},
    {"--repetition-penalty", fate::renamed, operand::one, "repeat-penalty"},
    {"--typical", fate::renamed, operand::one, "typical-p"},
    {"--keep", fate::renamed, operand::one, "context-keep"},
    {"--chat-template", fate::renamed, operand::one, "template"},
    {"-sys,--system-prompt", fate::renamed, operand::one, "system"},
    {"-r,--reverse-prompt", fate::renamed, operand::one, "stop"},
    {"-np,--n-parallel", fate::renamed, operand::one, "parallel"},
    {"-ctk,--cache-type-k,-ctv,--cache-type-v", fate::renamed, operand::one, "kv-type"},
    {"--n-threads,--num-thread", fate::renamed, operand::one, "threads"},
    {"-v,--verbose", fate::renamed, operand::none, "stats"},

    {"-ngl,--gpu-layers,--n-gpu-layers,--num-gpu", fate::ignored, operand::one, {}, on_gpus},
    {"-b,--batch-size,-ub,--ubatch-size,--num-batch",
     fate::ignored,
     operand::one,
     {},
     "changes nothing: how many tokens a step computes follows from the plan"},
    {"-fa,--flash-attn",
     fate::ignored,
     operand::on_or_off,
     {},
     "changes nothing: attention never stores its scores, whatever the device"},
    {"--mmap,--no-mmap",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: weights are read as suits the plan; --io mmap, direct or buffered chooses"},
    {"--mlock",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: memory is not locked; --budget keeps the program within what the machine has free"},
    {"--numa,-C,--cpu-mask,-Cr,--cpu-range,--cpu-strict,--prio,--poll", fate::ignored, operand::one, {}, of_the_system},
    {"-tb,--threads-batch", fate::ignored, operand::one, {}, "changes nothing: --threads is for prompts, too"},
    {"-cb,--cont-batching,-nocb,--no-cont-batching",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: sequences join and leave the batch at every step"},
    {"-kvo,--kv-offload,-nkvo,--no-kv-offload",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: keys and values are where their layers are"},
    {"--repack,-nr,--no-repack",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: weights are repacked while they load, and --no-cache keeps them off the disk"},
    {"-fit,--fit,-fitt,--fit-target",
     fate::ignored,
     operand::one,
     {},
     "changes nothing: the plan always fits its --budget"},
    {"--jinja,--no-jinja",
     fate::ignored,
     operand::none,
     {},
     "changes nothing: chat templates are recognised; --template llama3 or chatml chooses"},
    {"-co,--color",
     fate::ignored,
     operand::on_or_off,
     {},
     "changes nothing: a terminal has colours, unless NO_COLOR is set"},
    {"--warmup,--no-warmup,--simple-io,--display-prompt,--no-display-prompt,--perf,--no-perf,--show-timings,"
     "--no-show-timings,--log-disable,--nowordwrap,--offline,--escape,-e",
     fate::ignored,
     operand::none,
     {},
     "changes nothing here"},
    {"--keepalive",
     fate::ignored,
     operand::one,
     {},
     "changes nothing: a model is loaded by each command and stays in "
     "the system's file cache"},
    {"-cnv,--conversation,-i,--interactive,-if,--interactive-first,-mli,--multiline-input",
     fate::ignored,
     operand::none,
     {},
     always_a_conversation,
     "chat"},
    {"-st,--single-turn", fate::ignored, operand::none, {}, "changes nothing: run answers one prompt", "run"},

    {"-hf,-hfr,--hf-repo,-hff,--hf-file,-hft,--hf-token,-mu,--model-url,-dr,--docker-repo",
     fate::refused,
     operand::one,
     {},
     no_downloads},
    {"-cnv,--conversation,-i,--interactive,-if,--interactive-first,-mli,--multiline-input",
     fate::refused,
     operand::none,
     {},
     a_conversation},
    {"-no-cnv,--no-conversation",
     fate::refused,
     operand::none,
     {},
     "is `tropilla run --raw` here, which continues a prompt without a template"},
    {"-st,--single-turn", fate::refused, operand::none, {}, "is `tropilla run` here: one prompt, one answer"},
    {"-sysf,--system-prompt-file", fate::refused, operand::one, {}, "is --system \"$(cat FILE)\" here"},
    {"-bf,--binary-file", fate::refused, operand::one, {}, "is -f FILE here"},
    {"--repeat-last-n",
     fate::refused,
     operand::one,
     {},
     "is --penalty-window here, with another meaning of 0: it counts all tokens; --repeat-penalty 1 is none"},
    {"--samplers,--sampler-seq,--sampling-seq,--mirostat,--mirostat-lr,--mirostat-ent,--dynatemp-range,--dynatemp-exp,"
     "--xtc-probability,--xtc-threshold,--dry-multiplier,--dry-base,--dry-allowed-length,--dry-penalty-last-n,"
     "--dry-sequence-breaker,--top-nsigma,--top-n-sigma,--adaptive-target,--adaptive-decay",
     fate::refused,
     operand::one,
     {},
     no_sampler},
    {"-l,--logit-bias",
     fate::refused,
     operand::one,
     {},
     "is not supported: a line of `tropilla batch` has \"logit_bias\", and a program of its own "
     "sampling_options::bias"},
    {"--grammar,--grammar-file,-j,--json-schema,-jf,--json-schema-file,--format",
     fate::refused,
     operand::one,
     {},
     no_grammar},
    {"--lora,--lora-scaled,--control-vector,--control-vector-scaled", fate::refused, operand::one, {}, no_adapters},
    {"-mm,--mmproj,-mmu,--mmproj-url,--image,--audio,--video", fate::refused, operand::one, {}, no_media},
    {"-md,--model-draft,--draft,--draft-n,--draft-max,--draft-min,--spec-type,--spec-draft-model",
     fate::refused,
     operand::one,
     {},
     no_drafts},
    {"-dev,--device,-mg,--main-gpu,-sm,--split-mode,-ts,--tensor-split,-ot,--override-tensor",
     fate::refused,
     operand::one,
     {},
     placement},
    {"--list-devices", fate::refused, operand::none, {}, "is `tropilla devices` here"},
    {"-cl,--cache-list", fate::refused, operand::none, {}, "is `tropilla models` here"},
    {"--override-kv,--rope-scaling,--rope-scale,--rope-freq-base,--rope-freq-scale,--yarn-orig-ctx,--yarn-ext-factor,"
     "--yarn-attn-factor,--yarn-beta-slow,--yarn-beta-fast",
     fate::refused,
     operand::one,
     {},
     of_the_file},
    {"--chat-template-file,--in-prefix,--in-suffix",
     fate::refused,
     operand::one,
     {},
     "is not supported: --template llama3 or chatml chooses how a conversation is written"},
    {"-lm,--load-mode", fate::refused, operand::one, {}, how_to_read},
    {"-dio,--direct-io,-ndio,--no-direct-io", fate::refused, operand::none, {}, how_to_read},
    {"--host,--port,--api-key,--server-base,--rpc", fate::refused, operand::one, {}, no_server},
    {"--embedding,--embeddings", fate::refused, operand::none, {}, "is not supported: tropilla computes no embeddings"},
});

constexpr std::string_view models_are_files = "is not supported: a model is a GGUF file; copy, move or remove that";
constexpr std::string_view download =
    "is not supported, because tropilla downloads nothing: fetch a GGUF file with a browser "
    "or `hf download`, and `tropilla models` lists it";

constexpr std::array foreign_commands = std::to_array<foreign_command>({
    {"list", "models"},
    {"ls", "models"},
    {"show", "inspect"},
    {"cli", "chat"},
    {"completion", "run"},
    {"generate", "run"},
    {"perplexity", "eval"},
    {"pull", {}, download},
    {"push", {}, "is not supported: tropilla neither fetches nor publishes models"},
    {"create", {}, "is not supported: --system, --temp and other options are kept in a TOML file that --config names"},
    {"cp", {}, models_are_files},
    {"rm",
     {},
     "is not supported: a model is a GGUF file, and removing that is enough; `tropilla cache rm` removes packed "
     "weights"},
    {"serve", {}, no_server},
    {"server", {}, no_server},
    {"ps", {}, "is not supported: a model is loaded while a command runs, and `ps` of the system shows that"},
    {"stop", {}, "is not supported: a model is loaded while a command runs; Ctrl-C ends it"},
    {"quantize", {}, "is not supported: convert and quantise with llama.cpp's tools; tropilla reads what they write"},
    {"embed", {}, "is not supported: tropilla computes no embeddings"},
});

/// Calls `f` with each of the names that commas separate.
template <class F>
void for_each_name(std::string_view names, F f) {
  while (!names.empty()) {
    const std::string_view one = names.substr(0, names.find(','));
    f(one);
    names.remove_prefix(std::min(names.size(), one.size() + 1));
  }
}

/// The long names of the entries that `chosen` accepts, without dashes.
template <class F>
std::vector<std::string> long_names(std::string_view command, F chosen) {
  std::vector<std::string> found;
  for (const foreign_option& o : options)
    if ((o.command.empty() || o.command == command) && chosen(o))
      for_each_name(o.names, [&](std::string_view name) {
        if (name.starts_with("--"))
          found.emplace_back(name.substr(2));
      });
  return found;
}

} // namespace

const foreign_option* find_foreign_option(std::string_view name, std::string_view command) {
  // Entries of one command come before those of all.
  const auto found = std::find_if(options.begin(), options.end(), [&](const foreign_option& o) {
    bool named = false;
    for_each_name(o.names, [&](std::string_view one) { named = named || one == name; });
    return named && (o.command.empty() || o.command == command);
  });
  return found == options.end() ? nullptr : &*found;
}

std::vector<std::string> foreign_names(std::span<const std::string> keys, std::string_view command) {
  return long_names(command, [&](const foreign_option& o) {
    return o.what == fate::renamed && std::find(keys.begin(), keys.end(), o.key) != keys.end();
  });
}

std::vector<std::string> explained_names(std::string_view command) {
  return long_names(command, [](const foreign_option& o) { return o.what != fate::renamed; });
}

const foreign_command* find_foreign_command(std::string_view name) {
  const auto found = std::find_if(foreign_commands.begin(), foreign_commands.end(),
                                  [&](const foreign_command& c) { return c.name == name; });
  return found == foreign_commands.end() ? nullptr : &*found;
}

} // namespace tropilla::app
