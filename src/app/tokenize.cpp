// `tropilla tokenize` and `tropilla detokenize`: text to ids and back, from a vocabulary alone.
#include "src/app/command.hpp"

#include "src/app/files.hpp"
#include "src/app/ids.hpp"
#include "src/app/text.hpp"
#include "src/model/tokenizer.hpp"

#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>

namespace tropilla::app {
namespace {

constexpr std::string_view tokenize_help = R"(Turns text into token ids, as the model was trained to read it.

Usage: tropilla tokenize -m FILE [options]

  -m, --model FILE    a GGUF file; a vocabulary without tensors is enough (also TROPILLA_MODEL)
      --text TEXT     the text; or
  -f, --file FILE     the text's file; without both, standard input. All are taken byte for byte.
      --bos           begin with the model's beginning-of-sequence token
      --special       read special tokens in the text as such
      --json          an array of ids; without it, an id and its piece per line
      --config FILE   options from TOML

Example:
  tropilla tokenize -m model.gguf --text "Hello, world" --json
)";

constexpr std::string_view detokenize_help = R"(Turns token ids into text: exactly their bytes.

Usage: tropilla detokenize -m FILE [options] [ID...]

  -m, --model FILE    a GGUF file; a vocabulary without tensors is enough (also TROPILLA_MODEL)
      --special       write special tokens, too; without it they give nothing
      --json          {"text": ...}, with U+FFFD for what is no UTF-8
      --config FILE   options from TOML

Ids are arguments or, without any, standard input: numbers or a JSON array.

Example:
  tropilla tokenize -m model.gguf --text "Hello" --json | tropilla detokenize -m model.gguf
)";

struct tokenize_options {
  std::string model;
  std::string text;
  std::string file;
  bool text_given = false;
  bool bos = false;
  bool special = false;
  bool json = false;

  void bind(option_binder& b) {
    b.text("-m,--model", model);
    b.text("--text", text, &text_given);
    b.text("-f,--file", file);
    b.flag("--bos", bos);
    b.flag("--special", special);
    b.flag("--json", json);
  }
};

struct detokenize_options {
  std::string model;
  std::vector<std::string> ids;
  bool special = false;
  bool json = false;

  void bind(option_binder& b) {
    b.text("-m,--model", model);
    b.flag("--special", special);
    b.flag("--json", json);
    b.positionals("ids", ids);
  }
};

tokenizer open_tokenizer(const std::string& model) {
  require_model(model);
  return tokenizer(gguf_file::open(expand_home(model)));
}

void tokenize(const tokenize_options& options, surroundings& around) {
  if (options.text_given && !options.file.empty())
    throw error(errc::invalid_argument, "more than one text: give --text TEXT or -f FILE");
  const tokenizer vocabulary = open_tokenizer(options.model);
  const std::string text = options.text_given      ? options.text
                           : !options.file.empty() ? read_file(expand_home(options.file))
                                                   : read_standard_input();
  const auto ids = vocabulary.encode(text, {.bos = options.bos, .special = options.special});
  if (options.json) {
    around.out.write(nlohmann::json(ids).dump() + "\n");
    return;
  }
  std::string lines;
  for (const token_id id : ids)
    lines += fmt::format("{:>6}  {}\n", id, escape(vocabulary.piece(id, true)));
  around.out.write(lines);
}

void detokenize(const detokenize_options& options, surroundings& around) {
  const tokenizer vocabulary = open_tokenizer(options.model);
  std::string text;
  for (const std::string& word : options.ids)
    text += word + "\n";
  const auto ids = parse_ids(options.ids.empty() ? read_standard_input() : text);
  const std::string bytes = vocabulary.decode(ids, options.special);
  if (options.json)
    around.out.write(nlohmann::json{{"text", bytes}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                     "\n");
  else
    around.out.write(bytes);
}

} // namespace

command make_tokenize() {
  auto options = std::make_shared<tokenize_options>();
  return {.name = "tokenize",
          .summary = "text to token ids",
          .help = tokenize_help,
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](surroundings& around) { tokenize(*options, around); }};
}

command make_detokenize() {
  auto options = std::make_shared<detokenize_options>();
  return {.name = "detokenize",
          .summary = "token ids to text",
          .help = detokenize_help,
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](surroundings& around) { detokenize(*options, around); }};
}

} // namespace tropilla::app
