// `tropilla tokenize` and `tropilla detokenize`: convert text to ids and back, from a vocabulary alone.
#include "app/command.hpp"

#include "app/files.hpp"
#include "app/ids.hpp"
#include "app/notes.hpp"
#include "app/text.hpp"
#include "src/model/tokenizer.hpp"

#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>

namespace tropilla::app {
namespace {

struct tokenize_options {
  std::string model;
  std::string text;
  std::string file;
  bool text_given = false;
  bool bos = false;
  bool special = false;
  bool json = false;

  void bind(option_binder& b) {
    b.text({"-m,--model", "FILE", model_meaning + std::string("; a vocabulary without tensors is enough"),
            model_otherwise},
           model);
    b.text({"--text", "TEXT", "the text"}, text, &text_given);
    b.text({"-f,--file", "FILE", "a file that has the text"}, file);
    b.flag({"--bos", "", "begin with the model's beginning-of-sequence token"}, bos);
    b.flag({"--special", "", "read special tokens in the text as such"}, special);
    b.flag({"--json", "", "an array of ids, in place of an id and its piece per line"}, json);
  }
};

struct detokenize_options {
  std::string model;
  std::vector<std::string> ids;
  bool special = false;
  bool json = false;

  void bind(option_binder& b) {
    b.text({"-m,--model", "FILE", model_meaning + std::string("; a vocabulary without tensors is enough"),
            model_otherwise},
           model);
    b.flag({"--special", "", "write special tokens, too; without it they give nothing"}, special);
    b.flag({"--json", "", "{\"text\": ...}, with U+FFFD for what is no UTF-8"}, json);
    b.positionals("ids", ids);
  }
};

tokenizer open_tokenizer(const std::string& model, const command_context& env) {
  tokenizer vocabulary(gguf_file::open(env.choose_model(model)));
  say_notes(vocabulary.notices());
  return vocabulary;
}

void tokenize(const tokenize_options& options, command_context& env) {
  if (options.text_given && !options.file.empty())
    throw error(errc::invalid_argument, "more than one text: give --text TEXT or -f FILE");
  const tokenizer vocabulary = open_tokenizer(options.model, env);
  const std::string text = options.text_given      ? options.text
                           : !options.file.empty() ? read_file(expand_home(options.file), max_text_bytes)
                                                   : read_standard_input(max_text_bytes);
  const auto ids = vocabulary.encode(text, {.bos = options.bos, .special = options.special});
  if (options.json) {
    env.out.write(nlohmann::json(ids).dump() + "\n");
    return;
  }
  std::string lines;
  for (const token_id id : ids)
    lines += fmt::format("{:>6}  {}\n", id, escape(vocabulary.piece(id, true)));
  env.out.write(lines);
}

void detokenize(const detokenize_options& options, command_context& env) {
  const tokenizer vocabulary = open_tokenizer(options.model, env);
  std::string text;
  for (const std::string& word : options.ids)
    text += word + "\n";
  const auto ids = parse_ids(options.ids.empty() ? read_standard_input(max_text_bytes) : text);
  const std::string bytes = vocabulary.decode(ids, options.special);
  if (options.json)
    env.out.write(nlohmann::json{{"text", bytes}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                  "\n");
  else
    env.out.write(bytes);
}

} // namespace

command make_tokenize() {
  auto options = std::make_shared<tokenize_options>();
  return {.name = "tokenize",
          .summary = "text to token ids",
          .help = {.about =
                       "Turns text into token ids, as the model was trained to read it. The text is --text, a file or "
                       "standard input, and is taken byte for byte: a byte order mark and the last line end are "
                       "text, too.",
                   .usage = "tropilla tokenize [options]",
                   .example = "  tropilla tokenize --text \"Hello, world\" --json"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { tokenize(*options, env); }};
}

command make_detokenize() {
  auto options = std::make_shared<detokenize_options>();
  return {.name = "detokenize",
          .summary = "token ids to text",
          .help = {.about =
                       "Turns token ids into text: exactly their bytes. Ids are arguments or, without any, standard "
                       "input: numbers or a JSON array.",
                   .usage = "tropilla detokenize [options] [ID...]",
                   .example = "  tropilla tokenize --text \"Hello\" --json | tropilla detokenize"},
          .bind = [options](option_binder& b) { options->bind(b); },
          .execute = [options](command_context& env) { detokenize(*options, env); }};
}

} // namespace tropilla::app
