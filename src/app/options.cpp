// Binding with strict values, and the layers below the command line.
#include "src/app/options.hpp"

#include "memory/arbiter.hpp"
#include "src/app/files.hpp"
#include "src/app/text.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace tropilla::app {
namespace {

[[noreturn]] void bad_value(const std::string& names, const std::string& expected, const std::string& found) {
  throw error(errc::invalid_argument, fmt::format("{} must be {}, not \"{}\"", names, expected, escape(found)));
}

/// What a person calls an option: its longest name.
std::string option_title(const std::string& names) {
  const std::size_t dashes = names.find("--");
  return dashes == std::string::npos ? names : names.substr(dashes);
}

template <class Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value{};
  const char* const end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end)
    return std::nullopt;
  return value;
}

std::string range_text(std::size_t least, std::size_t most) {
  return most == std::numeric_limits<std::size_t>::max() ? fmt::format("a whole number from {} up", least)
                                                         : fmt::format("a whole number from {} to {}", least, most);
}

std::string variable_name(std::string_view key) {
  std::string name = "TROPILLA_";
  for (const char c : key)
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

const char* look_up(const environment_lookup& environment, const std::string& name) {
  const char* value = environment ? environment(name.c_str()) : std::getenv(name.c_str());
  return value && *value ? value : nullptr;
}

/// Sets an option from a layer below the command line; its errors say where the value came from.
void set_from(CLI::Option& option, const std::vector<std::string>& values, const std::string& source) {
  try {
    option.clear(); // a file's table of one command wins over its top
    option.add_result(values);
    option.run_callback();
  } catch (const CLI::ParseError& e) {
    throw error(errc::invalid_argument, fmt::format("{}: {}", source, e.what()));
  } catch (const error& e) {
    throw error(e.code(), fmt::format("{}: {}", source, e.what()));
  }
}

[[noreturn]] void reject_extras(const CLI::App& app, const option_context& context) {
  const std::string found = app.remaining().front();
  std::string hint;
  if (found.starts_with('-')) {
    std::vector<std::string> names;
    for (const CLI::Option* option : app.get_options())
      for (const std::string& name : option->get_lnames())
        names.push_back(name);
    const std::string word =
        found.substr(found.find_first_not_of('-') == std::string::npos ? 0 : found.find_first_not_of('-'));
    const std::string near = closest(word.substr(0, word.find('=')), names);
    hint = near.empty() ? "" : fmt::format("; did you mean --{}?", near);
    if (found.find(' ') != std::string::npos)
      hint += "; a text that begins with a dash goes after -- or into its option";
  }
  throw error(errc::invalid_argument,
              fmt::format("{} knows no {} \"{}\"{} (tropilla {} --help)", context.command,
                          found.starts_with('-') ? "option" : "argument", escape(found), hint, context.command));
}

void parse_command_line(CLI::App& app, std::span<const std::string> arguments, const option_context& context) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend()); // as CLI11 wants them
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp&) {
    throw help_requested{};
  } catch (const CLI::ParseError& e) {
    throw error(errc::invalid_argument, fmt::format("{} (tropilla {} --help)", e.what(), context.command));
  }
  if (app.remaining_size() > 0)
    reject_extras(app, context);
}

int hex_digit(char c) {
  constexpr std::string_view digits = "0123456789abcdef";
  const auto at = digits.find(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

} // namespace

std::string unescape(const std::string& text, const std::string& title) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    constexpr std::string_view names = "ntr\\", meanings = "\n\t\r\\";
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (const auto known = names.find(next); next != '\0' && known != std::string_view::npos) {
      out += meanings[known];
      i += 1;
    } else if (next == 'x' && i + 3 < text.size() && hex_digit(text[i + 2]) >= 0 && hex_digit(text[i + 3]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 2]) * 16 + hex_digit(text[i + 3]));
      i += 3;
    } else {
      bad_value(title, R"(a text in which a backslash begins \n, \t, \r, \\ or \x and two hexadecimal digits)", text);
    }
  }
  return out;
}

void option_binder::add(const std::string& names, std::function<void(const std::string&)> set) {
  app_.add_option_function<std::string>(names, set)->take_last();
}

void option_binder::flag(const std::string& names, bool& value) {
  app_.add_flag(names, value)->take_last();
}

void option_binder::text(const std::string& names, std::string& value, bool* given) {
  add(names, [&value, given](const std::string& text) {
    value = text;
    if (given)
      *given = true;
  });
}

void option_binder::count(const std::string& names, std::size_t& value, std::size_t least, std::size_t most) {
  add(names, [&value, least, most, title = option_title(names)](const std::string& text) {
    const auto number = parse_number<std::size_t>(text);
    if (!number || *number < least || *number > most)
      bad_value(title, range_text(least, most), text);
    value = *number;
  });
}

void option_binder::number(const std::string& names, double& value, double least, double most) {
  add(names, [&value, least, most, title = option_title(names)](const std::string& text) {
    const auto number = parse_number<double>(text);
    if (!number || !(*number >= least && *number <= most)) // the negation also catches NaN
      bad_value(title, fmt::format("a number from {} to {}", least, most), text);
    value = *number;
  });
}

void option_binder::device_bytes(const std::string& names, std::vector<device_budget>& values) {
  add(names, [&values, title = option_title(names)](const std::string& text) {
    values.clear();
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find(',', at), text.size());
      const std::string one = text.substr(at, end - at);
      const std::size_t sign = one.find('=');
      try {
        if (sign != std::string::npos)
          values.push_back({one.substr(0, sign), parse_bytes(one.substr(sign + 1))});
        else if (one.find(':') != std::string::npos)
          values.push_back({one, 0});
        else
          values.push_back({"host:0", parse_bytes(one)});
      } catch (const error&) {
        bad_value(title, "a size like 300MiB, a device like cuda:0, or a size per device: host:0=300MiB,host:1=1GiB",
                  text);
      }
      at = end + 1;
    }
  });
}

void option_binder::bytes(const std::string& names, std::size_t& value) {
  add(names, [&value, title = option_title(names)](const std::string& text) {
    try {
      value = parse_bytes(text);
    } catch (const error&) {
      bad_value(title, "a size like 300MiB", text);
    }
  });
}

void option_binder::choice(const std::string& names, std::string& value, std::vector<std::string> words) {
  add(names, [&value, title = option_title(names), words = std::move(words)](const std::string& text) {
    if (std::find(words.begin(), words.end(), text) == words.end())
      bad_value(title, fmt::format("one of {}", fmt::join(words, ", ")), text);
    value = text;
  });
}

void option_binder::texts(const std::string& names, std::vector<std::string>& values) {
  app_.add_option_function<std::vector<std::string>>(
          names,
          [&values, title = option_title(names)](const std::vector<std::string>& given) {
            values.clear();
            for (const std::string& text : given)
              values.push_back(unescape(text, title));
          })
      ->allow_extra_args(false) // one text each time: the next word is the prompt's
      ->take_all();
}

void option_binder::positionals(const std::string& name, std::vector<std::string>& values) {
  app_.add_option(name, values);
}

std::vector<std::string> long_options(const std::function<void(option_binder&)>& bind) {
  CLI::App app;
  option_binder binder(app);
  bind(binder);
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (name != "help")
        names.push_back(name);
  return names;
}

void parse_options(const std::function<void(option_binder&)>& bind, std::span<const std::string> arguments,
                   const option_context& context) {
  CLI::App app;
  app.allow_extras();
  std::string config;
  option_binder binder(app);
  bind(binder);
  binder.text("--config", config);
  parse_command_line(app, arguments, context);

  const auto option_of = [&](const std::string& key) { return app.get_option_no_throw("--" + key); };
  for (CLI::Option* option : app.get_options()) {
    if (option->count() > 0 || option->get_lnames().empty() || option == app.get_help_ptr())
      continue;
    const std::string variable = variable_name(option->get_lnames().front());
    if (const char* value = look_up(context.environment, variable))
      set_from(*option, {value}, variable);
  }
  if (config.empty())
    return;
  const std::string path = find_config_file(config, context.environment);
  std::vector<CLI::Option*> set_above;
  for (CLI::Option* option : app.get_options())
    if (option->count() > 0)
      set_above.push_back(option);
  for (const auto& [key, value] : read_config_file(path, context)) {
    CLI::Option* option = option_of(key);
    if (!option || std::find(set_above.begin(), set_above.end(), option) != set_above.end())
      continue;
    if (value.array && option->get_multi_option_policy() != CLI::MultiOptionPolicy::TakeAll)
      throw error(errc::malformed_file, fmt::format("{}: {}: expected text, a number or true/false", path, key));
    if (!value.texts.empty())
      set_from(*option, value.texts, path + ": " + key);
  }
}

void require_model(const std::string& model) {
  if (model.empty())
    throw error(errc::invalid_argument, "no model: name one with -m FILE, TROPILLA_MODEL or a --config file; "
                                        "scripts/model.sh prints the path of one, obtaining it first where needed");
}

void model_options::bind(option_binder& binder) {
  binder.text("-m,--model", model);
  binder.count("-t,--threads", threads, 1, 1024);
  binder.count("--ctx", context, 1, std::numeric_limits<std::int32_t>::max());
  binder.count("--parallel", parallel, 1, 1024);
  binder.count("--kv", kv_tokens, 1, std::numeric_limits<std::int32_t>::max());
  binder.choice("--kv-type", kv_type, {"f16", "bf16", "q8_0"});
  binder.device_bytes("--budget", budget);
  binder.bytes("--pinned", pinned);
  binder.flag("--precise", precise);
  binder.choice("--io", io, {"mmap", "direct", "buffered"});
  binder.flag("--no-cache", no_cache);
  binder.choice("--isa", isa, {"scalar", "avx2", "avx512"});
  binder.choice("--template", chat_template, {"llama3", "chatml"});
  binder.text("--trace", trace);
  binder.flag("-q,--quiet", quiet);
}

runtime_config model_options::to_config(std::size_t sequences) const {
  require_model(model);
  runtime_config config;
  config.model = expand_home(model);
  config.threads = threads;
  config.context = context;
  config.sequences = parallel > 0 ? parallel : sequences;
  config.kv_tokens = kv_tokens;
  config.kv_type = kv_type;
  if (budget.size() == 1 && budget.front().name == "host:0")
    config.budget_bytes = budget.front().bytes;
  else
    config.devices = budget;
  config.pinned_bytes = pinned;
  config.precise = precise;
  config.isa = isa;
  config.chat_template = chat_template;
  config.trace = expand_home(trace);
  config.io = io;
  if (!no_cache)
    config.packed_cache = packed_cache_directory();
  return config;
}

void reply_options::bind(option_binder& binder) {
  binder.count("-n,--max-tokens", generation.max_tokens, 1, std::numeric_limits<std::int32_t>::max());
  binder.number("--temp", generation.sampling.temperature, 0.0, 100.0);
  binder.count("--top-k", generation.sampling.top_k);
  binder.number("--top-p", generation.sampling.top_p, 0.0, 1.0);
  binder.number("--min-p", generation.sampling.min_p, 0.0, 1.0);
  binder.number("--typical-p", generation.sampling.typical_p, 1e-6, 1.0);
  binder.number("--repeat-penalty", generation.sampling.repetition_penalty, 0.01, 100.0);
  binder.number("--frequency-penalty", generation.sampling.frequency_penalty, -100.0, 100.0);
  binder.number("--presence-penalty", generation.sampling.presence_penalty, -100.0, 100.0);
  binder.count("--penalty-window", generation.sampling.penalty_window);
  binder.texts("--stop", generation.stop);
  binder.flag("--context-shift", generation.context_shift);
  binder.count("--context-keep", generation.context_keep);
  static_assert(sizeof(std::size_t) == sizeof(std::uint64_t));
  binder.count("--seed", generation.sampling.seed);
  binder.flag("--ignore-eos", generation.ignore_eos);
}

} // namespace tropilla::app
