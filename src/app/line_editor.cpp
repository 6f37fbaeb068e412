// The one file that knows libedit.
#include "src/app/line_editor.hpp"

#include "src/app/chat_input.hpp"
#include "src/app/text.hpp"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <histedit.h>
#include <string_view>
#include <sys/stat.h>
#include <system_error>
#include <termios.h>
#include <unistd.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr int lines_kept = 1000;

/// Replaces the word at the cursor by what all candidates share; a second look is not needed for so few commands.
unsigned char complete(EditLine* editor, int) {
  const LineInfo* line = el_line(editor);
  const std::string_view before(line->buffer, static_cast<std::size_t>(line->cursor - line->buffer));
  const auto names = complete_chat_command(before);
  if (names.empty())
    return CC_ERROR;
  std::string shared = names.front();
  for (const std::string& name : names)
    while (!name.starts_with(shared))
      shared.pop_back();
  if (names.size() == 1)
    shared += ' ';
  if (shared.size() <= before.size())
    return CC_ERROR;
  return el_insertstr(editor, shared.c_str() + before.size()) == 0 ? CC_REFRESH : CC_ERROR;
}

} // namespace

struct line_editor::impl {
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::filesystem::path file;
  std::string prompt;
  std::string last;
  std::string begun; ///< of the next line, without an editor
  bool interrupted = false;

  ~impl() {
    if (editor)
      el_end(editor);
    if (history)
      history_end(history);
  }

  static impl& of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<impl*>(self);
  }

  static char* show_prompt(EditLine* editor) { return of(editor).prompt.data(); }

  /// Ctrl-C arrives as a key: a signal could not tell an editor in the middle of a line to give it up.
  static unsigned char interrupt(EditLine* editor, int) {
    of(editor).interrupted = true;
    return CC_EOF;
  }

  void open_editor() {
    editor = el_init("tropilla", stdin, stdout, stderr);
    if (!editor)
      return;
    el_set(editor, EL_CLIENTDATA, this);
    el_set(editor, EL_PROMPT_ESC, &impl::show_prompt, '\1');
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_SIGNAL, 1); // a window that changes its size, and coming back after Ctrl-Z
    el_set(editor, EL_HIST, ::history, history);
    el_set(editor, EL_ADDFN, "tropilla-interrupt", "give the line up", &impl::interrupt);
    el_set(editor, EL_ADDFN, "tropilla-complete", "complete a command", &complete);
    el_set(editor, EL_BIND, "^C", "tropilla-interrupt", nullptr);
    el_set(editor, EL_BIND, "^I", "tropilla-complete", nullptr);
    el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_set(editor, EL_BIND, "\\e[H", "ed-move-to-beg", nullptr);
    el_set(editor, EL_BIND, "\\e[F", "ed-move-to-end", nullptr);
    el_set(editor, EL_BIND, "\\e[1~", "ed-move-to-beg", nullptr);
    el_set(editor, EL_BIND, "\\e[4~", "ed-move-to-end", nullptr);
    el_set(editor, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
    el_set(editor, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
    el_set(editor, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
    el_source(editor, nullptr); // ~/.editrc may say otherwise
  }

  void open_history() {
    history = history_init();
    if (!history)
      return;
    HistEvent event{};
    ::history(history, &event, H_SETSIZE, lines_kept);
    ::history(history, &event, H_SETUNIQUE, 1);
    if (file.empty())
      return;
    std::error_code ignored; // a history that can't be kept is no reason not to talk
    std::filesystem::create_directories(file.parent_path(), ignored);
    ::history(history, &event, H_LOAD, file.c_str());
  }

  void save_history() const {
    // What a person asked is nobody else's business: the file exists with these rights before anything is in it.
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0)
      return;
    ::close(descriptor);
    HistEvent event{};
    ::history(history, &event, H_SAVE, file.c_str());
  }

  /// Raw mode, as el_gets sets it, without a character that interrupts. (libedit's own setty forgets it again.)
  void prepare_terminal() const {
    el_set(editor, EL_PREP_TERM, 1);
    termios mode{};
    if (tcgetattr(STDIN_FILENO, &mode) != 0)
      return;
    mode.c_cc[VINTR] = _POSIX_VDISABLE;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
  }

  line_end edit(std::string& line) {
    interrupted = false;
    prepare_terminal();
    int count = 0;
    const char* text = el_gets(editor, &count);
    if (interrupted) {
      std::fputs("^C\n", stdout);
      std::fflush(stdout);
      el_reset(editor);
      return line_end::interrupt;
    }
    if (!text || count <= 0)
      return line_end::closed;
    line.assign(text);
    if (line.ends_with('\n'))
      line.pop_back();
    return line_end::line;
  }

  bool at_start = true; ///< of an input that is no terminal

  line_end read_plain(std::string& line) {
    line = std::exchange(begun, {});
    int c = 0;
    while ((c = std::getc(stdin)) != EOF && c != '\n')
      line += static_cast<char>(c);
    if (std::exchange(at_start, false))
      line = without_byte_order_mark(std::move(line));
    return c == EOF && line.empty() ? line_end::closed : line_end::line;
  }
};

line_editor::line_editor(std::filesystem::path history) : impl_(std::make_unique<impl>()) {
  if (!inspect_terminal(STDIN_FILENO).interactive || !inspect_terminal(STDOUT_FILENO).interactive)
    return;
  impl_->file = std::move(history);
  impl_->open_history();
  impl_->open_editor();
}

line_editor::~line_editor() = default;

line_end line_editor::read(const std::string& prompt, std::string& line) {
  if (!impl_->editor)
    return impl_->read_plain(line);
  impl_->prompt = prompt;
  return impl_->edit(line);
}

void line_editor::push_back(const std::string& text) {
  if (text.empty())
    return;
  if (impl_->editor)
    el_push(impl_->editor, text.c_str());
  else
    impl_->begun += text;
}

void line_editor::remember(const std::string& line) {
  // libedit's file has one entry per line.
  if (!impl_->history || line.empty() || line == impl_->last || line.find('\n') != std::string::npos)
    return;
  impl_->last = line;
  HistEvent event{};
  ::history(impl_->history, &event, H_ENTER, line.c_str());
  if (!impl_->file.empty())
    impl_->save_history();
}

} // namespace tropilla::app
