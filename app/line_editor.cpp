// Edits lines through libedit; no other file knows libedit.
#include "app/line_editor.hpp"

#include "app/chat_input.hpp"
#include "app/keys.hpp"
#include "app/screen.hpp"
#include "app/text.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <histedit.h>
#include <optional>
#include <poll.h>
#include <sys/stat.h>
#include <system_error>
#include <termios.h>
#include <unistd.h>
#include <utility>

namespace tropilla::app {
namespace {

constexpr int lines_kept = 1000;
constexpr std::size_t max_remembered = 4096; ///< bytes of a line: a file of a thousand stays small
// Keys that no keyboard has: C1 control characters, which are left out of what comes from one.
constexpr wchar_t paste_key = 0x80, interrupt_key = 0x81;
constexpr unsigned char control_c = 0x03;
// A terminal sends a mark at once; a connection may cut it in two.
constexpr int rest_of_mark_ms = 50;

/// A pasted text that is shown by a name, because it has too many rows to edit.
struct folded_paste {
  std::string name;
  std::string text;
};

} // namespace

struct line_editor::impl {
  const terminal_session* terminal = nullptr;
  EditLine* editor = nullptr;
  History* history = nullptr;
  std::filesystem::path file;
  line_completion complete;
  std::string prompt;
  std::string last;
  std::string keys;     ///< bytes that were read and not used
  std::size_t used = 0; ///< of them
  std::string pasted;   ///< what `paste_key` inserts
  std::vector<folded_paste> folded;
  bool interrupted = false;
  bool begun = false; ///< the input: its first line is gone

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

  /// Replaces the line up to the cursor by what all candidates share; shows them where that adds nothing.
  static unsigned char complete_line(EditLine* editor, int) {
    const LineInfo* line = el_line(editor);
    const std::string_view before(line->buffer, static_cast<std::size_t>(line->cursor - line->buffer));
    const auto candidates = of(editor).complete(before);
    if (candidates.empty())
      return CC_ERROR;
    std::string shared = candidates.front();
    for (const std::string& candidate : candidates)
      while (!candidate.starts_with(shared))
        shared.pop_back();
    if (candidates.size() == 1)
      shared += ' ';
    if (shared.size() > before.size())
      return el_insertstr(editor, shared.c_str() + before.size()) == 0 ? CC_REFRESH : CC_ERROR;
    if (candidates.size() == 1)
      return CC_ERROR;
    std::fputs(fmt::format("\r\n{}\r\n", fmt::join(candidates, "  ")).c_str(), stdout);
    return CC_REDISPLAY;
  }

  /// Ctrl-C arrives as a key: a signal could not tell an editor in the middle of a line to give it up.
  static unsigned char interrupt(EditLine* editor, int) {
    impl& self = of(editor);
    self.interrupted = true; // the next key is the end of the input
    const LineInfoW* line = el_wline(editor);
    el_cursor(editor, static_cast<int>(line->lastchar - line->cursor));
    return CC_REFRESH;
  }

  static unsigned char insert_paste(EditLine* editor, int) {
    impl& self = of(editor);
    const std::string text = self.fold(std::exchange(self.pasted, {}));
    return el_insertstr(editor, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
  }

  /// The text, or a name for a long one.
  std::string fold(std::string text) {
    std::string name = name_of_long_paste(text, inspect_terminal(STDOUT_FILENO).width, window_height());
    if (name.empty())
      return text;
    if (!folded.empty())
      name.insert(name.size() - 1, fmt::format(", no. {}", folded.size() + 1));
    folded.push_back({name, std::move(text)});
    return name;
  }

  /// The line with the texts in place of their names.
  std::string unfold(const std::string& line) {
    std::string out;
    std::size_t done = 0;
    for (folded_paste& paste : std::exchange(folded, {})) {
      const std::size_t at = line.find(paste.name, done);
      if (at == std::string::npos)
        continue; // a person took it out
      out += line.substr(done, at - done) + paste.text;
      done = at + paste.name.size();
    }
    return out + line.substr(done);
  }

  static int read_key(EditLine* editor, wchar_t* key) { return of(editor).next_key(*key); }

  /// Reads a key for libedit: returns 1, or 0 at the end of the input.
  int next_key(wchar_t& key) {
    while (!interrupted) {
      if (!fill(-1))
        return 0;
      if (paste_begins()) {
        key = read_paste() ? paste_key : interrupt_key;
        return 1;
      }
      if (next_character(key))
        return 1;
    }
    return 0;
  }

  /// Decodes the next character; false when the bytes are none, or one without a meaning.
  bool next_character(wchar_t& key) {
    const auto lead = static_cast<unsigned char>(keys[used]);
    const std::size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    while (keys.size() - used < length && fill_more(rest_of_mark_ms)) {
    }
    const std::string_view bytes = std::string_view{keys}.substr(used, length);
    std::mbstate_t state{};
    const std::size_t n = std::mbrtowc(&key, bytes.data(), bytes.size(), &state);
    const bool good = n <= bytes.size(); // a NUL has 0 bytes, what is wrong -1 or -2
    used += good ? std::max<std::size_t>(n, 1) : 1;
    if (n == 0)
      key = L'\0';
    return good && (key < 0x80 || key >= 0xA0);
  }

  bool paste_begins() {
    constexpr std::string_view mark = pasted_text::begin_mark;
    for (;;) {
      const std::string_view ahead = std::string_view{keys}.substr(used, mark.size());
      if (!mark.starts_with(ahead))
        return false;
      if (ahead.size() == mark.size()) {
        used += mark.size();
        return true;
      }
      if (ahead.size() < 2 || !fill_more(rest_of_mark_ms)) // the Escape key alone does not wait
        return false;
    }
  }

  /// Reads a pasted text; false: Ctrl-C or the end of the input, which end a paste whose end mark never comes.
  bool read_paste() {
    pasted_text paste;
    while (fill(-1)) {
      const char byte = keys[used++];
      if (static_cast<unsigned char>(byte) == control_c)
        return false;
      if (!paste.take(byte))
        continue;
      pasted = paste.text();
      return true;
    }
    return false;
  }

  /// Makes sure that a byte is there. False: the end of the input.
  bool fill(int timeout_ms) { return used < keys.size() || fill_more(timeout_ms); }

  /// Waits for more bytes, and meanwhile follows the window.
  bool fill_more(int timeout_ms) {
    keys.erase(0, std::exchange(used, 0));
    std::array<pollfd, 2> waits{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{terminal->changes(), POLLIN, 0}};
    for (;;) {
      const int ready = ::poll(waits.data(), waits.size(), timeout_ms);
      if (ready == 0 || (ready < 0 && errno != EINTR))
        return false;
      if (ready > 0 && waits[1].revents != 0)
        show_again(terminal->take_changes());
      if (ready < 0 || waits[0].revents == 0)
        continue;
      std::array<char, 4096> bytes{};
      const ssize_t n = ::read(STDIN_FILENO, bytes.data(), bytes.size());
      if (n < 0 && (errno == EINTR || errno == EAGAIN))
        continue;
      if (n <= 0)
        return false;
      keys.append(bytes.data(), static_cast<std::size_t>(n));
      return true;
    }
  }

  /// Shows the line on a screen that has changed; where only the window did, in place of what is there of it.
  void show_again(bool came_back) const {
    el_set(editor, EL_PREP_TERM, 0); // the shell may have set another mode
    prepare_terminal();
    el_resize(editor);
    if (!came_back) {
      const LineInfo* line = el_line(editor);
      std::fputs(
          clear_rows_above(rows_above({line->buffer, static_cast<std::size_t>(line->cursor - line->buffer)})).c_str(),
          stdout);
      std::fflush(stdout);
    }
    el_set(editor, EL_REFRESH);
  }

  /// Columns of the prompt: those outside of \1.
  [[nodiscard]] std::size_t prompt_width() const {
    std::size_t columns = 0;
    bool code = false;
    for (const char c : prompt) {
      code = code != (c == '\1');
      columns += code || c == '\1' ? 0 : 1;
    }
    return columns;
  }

  /// Rows of the window that the prompt and `text` fill before the cursor's.
  [[nodiscard]] std::size_t rows_above(std::string_view text) const {
    const std::size_t columns = inspect_terminal(STDOUT_FILENO).width;
    std::size_t rows = 0, before = prompt_width();
    for (;;) {
      const std::size_t end = text.find('\n');
      rows += (before + display_width(text.substr(0, end))) / columns;
      if (end == std::string_view::npos)
        return rows;
      rows += 1;
      before = 0;
      text.remove_prefix(end + 1);
    }
  }

  void open_editor() {
    editor = el_init("tropilla", stdin, stdout, stderr);
    if (!editor)
      return;
    el_set(editor, EL_CLIENTDATA, this);
    el_set(editor, EL_PROMPT_ESC, &impl::show_prompt, '\1');
    el_set(editor, EL_EDITOR, "emacs");
    el_set(editor, EL_HIST, ::history, history);
    el_wset(editor, EL_GETCFN, &impl::read_key);
    el_set(editor, EL_SETTY, "-x", "-echo", "-icanon", "-icrnl", "+noflsh", nullptr); // between lines
    el_set(editor, EL_ADDFN, "tropilla-interrupt", "give the line up", &impl::interrupt);
    el_set(editor, EL_ADDFN, "tropilla-complete", "complete a command", &impl::complete_line);
    el_set(editor, EL_ADDFN, "tropilla-paste", "insert pasted text", &impl::insert_paste);
    bind("^I", "tropilla-complete");
    bind("^R", "em-inc-search-prev");
    bind("\\e[H", "ed-move-to-beg");
    bind("\\e[F", "ed-move-to-end");
    bind("\\e[1~", "ed-move-to-beg");
    bind("\\e[4~", "ed-move-to-end");
    bind("\\e[3~", "ed-delete-next-char");
    bind("\\e[1;5C", "em-next-word");
    bind("\\e[1;5D", "ed-prev-word");
    el_source(editor, nullptr); // ~/.editrc may say otherwise, but not of these:
    for (const auto& [key, function] :
         {std::pair{"^C", "tropilla-interrupt"}, {"\\200", "tropilla-paste"}, {"\\201", "tropilla-interrupt"}}) {
      bind(key, function);
      el_set(editor, EL_BIND, "-a", key, function, nullptr); // vi's other mode
    }
  }

  void bind(const char* key, const char* function) const { el_set(editor, EL_BIND, key, function, nullptr); }

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
    // A person's questions are private: the file exists with these rights before anything is in it.
    const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0)
      return;
    ::close(descriptor);
    HistEvent event{};
    ::history(history, &event, H_SAVE, file.c_str());
  }

  /// Raw mode, as el_gets sets it, without a character that interrupts (libedit's own setty forgets it again), and with
  /// both line ends of a text from Windows.
  void prepare_terminal() const {
    el_set(editor, EL_PREP_TERM, 1);
    termios mode{};
    if (tcgetattr(STDIN_FILENO, &mode) != 0)
      return;
    mode.c_cc[VINTR] = _POSIX_VDISABLE;
    mode.c_iflag &= ~static_cast<tcflag_t>(ICRNL | INLCR);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &mode);
  }

  line_end edit(std::string& line) {
    interrupted = false;
    folded.clear();
    terminal->take_changes(); // during an answer
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
    line = unfold(text);
    while (line.ends_with('\n')) // Enter's, and that of a last line that was pasted whole
      line.pop_back();
    return line_end::line;
  }

  line_end read_plain(std::string& line) {
    line.clear();
    int c = 0;
    while ((c = std::getc(stdin)) != EOF && c != '\n')
      if (line.size() <= max_message_bytes) // one more, which shows that there was more
        line += static_cast<char>(c);
    const bool closed = c == EOF && line.empty();
    if (!std::exchange(begun, true))
      line = without_byte_order_mark(std::move(line));
    return closed ? line_end::closed : line_end::line;
  }
};

line_editor::line_editor(const terminal_session* terminal, std::filesystem::path history, line_completion complete)
    : impl_(std::make_unique<impl>()) {
  if (!terminal)
    return;
  impl_->terminal = terminal;
  impl_->file = std::move(history);
  impl_->complete = std::move(complete);
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

std::string line_editor::take_keys() {
  return std::exchange(impl_->keys, {}).substr(std::exchange(impl_->used, 0));
}

void line_editor::push_back(std::string_view keys) {
  impl_->keys.insert(impl_->used, keys);
}

void line_editor::remember(const std::string& line) {
  if (!impl_->history || line.empty() || line == impl_->last || line.size() > max_remembered)
    return;
  impl_->last = line;
  HistEvent event{};
  ::history(impl_->history, &event, H_ENTER, line.c_str());
  if (!impl_->file.empty())
    impl_->save_history();
}

} // namespace tropilla::app
