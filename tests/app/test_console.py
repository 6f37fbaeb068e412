#!/usr/bin/env python3
"""`tropilla chat` as a person uses it, on a terminal of its own: lines, commands, typing, pasting, leaving.

    tests/app/test_console.py --bin build/release/bin/tropilla [Class[.test]...]

Run by ctest (label app), a class at a time.
"""
import json
import os
import pty
import re
import select
import signal
import termios
import time

from program import Program, main, program


class Terminal:
    """The program at a pseudo terminal, as a person has it."""

    def __init__(self, arguments, environment, folder, command=None):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            command = command or program()
            os.execvpe(command, [command, *map(str, arguments)], environment)

    def shows_keys(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def read_until(self, pattern, seconds=20):
        """What came up to and with the pattern."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            if not select.select([self.fd], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} in {self.text!r}")
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # how Linux says that the other side is closed
                raise AssertionError(f"ended without {pattern!r} in {self.text!r}") from None
        seen, self.text = self.text[: found.end()], self.text[found.end():]
        return seen

    def type(self, keys):
        keys = keys if isinstance(keys, bytes) else keys.encode()
        while keys:  # a terminal takes 4 KiB, and goes on when they were read
            if select.select([self.fd], [self.fd], [], 20)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
            keys = keys[os.write(self.fd, keys[:1024]):]

    def paste(self, text):
        """As a terminal sends it that was asked to mark pasted text."""
        self.type(b"\x1b[200~" + (text if isinstance(text, bytes) else text.encode()) + b"\x1b[201~")

    def say(self, line, then):
        """Types a line; what came up to and with the pattern `then`."""
        self.type(line + "\r")
        return self.read_until(then)

    def status(self):
        """How the program ended, whose last words are in `text` then."""
        try:
            while select.select([self.fd], [], [], 20)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class Conversation(Program):
    """Ways into `tropilla chat` at a terminal and out of it."""

    prompt = r"> $"

    def open(self, *arguments, **environment):
        return self.terminal(["chat", "-m", self.model, "--temp", "0", "-n", "8", *arguments], **environment)

    def terminal(self, arguments, command=None, **environment):
        t = Terminal(arguments, {**self.environment, "TERM": "xterm", "NO_COLOR": "1", **environment}, self.folder,
                     command)
        self.addCleanup(os.close, t.fd)
        return t

    def begin(self, *arguments):
        """A console at its first prompt."""
        t = self.open(*arguments)
        t.read_until(self.prompt)
        return t

    def leave(self, t, keys="\x04"):
        t.type(keys)
        self.assertEqual(t.status(), 0)
        self.assertTrue(t.shows_keys())

    def said(self, t, file=None):
        """What the person said, by the program's own account: a file, or one that it writes now, at a prompt."""
        if not file:
            file = "said.json"
            t.say(f"/save {file}", r"messages written[^>]*> $")
        return [m["content"] for m in json.loads((self.folder / file).read_text()) if m["role"] == "user"]


class Console(Conversation):
    def test_a_conversation_with_commands(self):
        t = self.open("--ignore-eos")
        self.assertIn("/help lists the commands", t.read_until(self.prompt))
        self.assertIn("/save FILE", t.say("/help", self.prompt))
        self.assertIn("stopped after 8 tokens", t.say("hello", r"tokens; /set[^>]*> $"))
        self.assertRegex(t.say("/stats", r"of \d+ tokens[^>]*> $"), r"\d+ tokens in, 8 out")
        t.say("/system Be brief.", r"new conversation[^>]*> $")
        t.say("/save talk.json", r"1 messages written[^>]*> $")
        self.assertEqual(json.loads((self.folder / "talk.json").read_text()),
                         [{"role": "system", "content": "Be brief."}])
        self.assertIn("there is no command /nonsense", t.say("/nonsense", r"slash[^>]*> $"))
        self.leave(t, "/quit\r")

    def test_interrupt_stops_the_answer_and_not_the_program(self):
        t = self.begin("--ignore-eos", "-n", "1000000", "--ctx", "2048")
        t.say("go on", r"go on\r\n[^\r]*\S")
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> $")
        t.type("half a line\x03")
        t.read_until(r"leaves\)[^>]*> $")
        t.say("/reset", r"new conversation[^>]*> $")
        self.leave(t)

    def test_earlier_lines_come_back_with_the_arrow_and_in_the_next_session(self):
        t = self.begin()
        t.say("/system Remember é.", r"new conversation[^>]*> $")
        t.say("/system", r"Remember é\.\r\n[^>]*> $")
        t.say("\x1b[A\x1b[A", r"new conversation[^>]*> $")  # twice up: the line that set it
        self.leave(t, "/quit\r")
        t = self.begin()
        t.type("\x1b[A")
        t.read_until("/quit")
        t.type("\x1b[A")
        t.read_until("Remember é")
        self.leave(t, "\x03\x04")

    def test_long_messages_end_where_they_should(self):
        t = self.begin()
        t.say('"""', r"\.\.\. $")
        t.say("/quit", r"\.\.\. $")  # text, inside of a block
        t.say('"""', self.prompt)
        t.say("one\\", r"\.\.\. $")
        t.say("two", self.prompt)
        t.say("/save long.json", r"messages written[^>]*> $")
        said = [m["content"] for m in json.loads((self.folder / "long.json").read_text()) if m["role"] == "user"]
        self.assertEqual(said, ["/quit", "one\ntwo"])
        self.leave(t)

    def test_lines_of_a_pipe_are_messages(self):
        done = self.call("chat", "-m", self.model, "-n", 4, "-q", "--temp", 0,
                         stdin=b'hello\n/save piped.json\n"""\nunfinished\n')
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        saved = json.loads((self.folder / "piped.json").read_text())
        self.assertEqual([m["role"] for m in saved], ["user", "assistant"])
        self.assertTrue(done.stdout.decode().startswith(saved[1]["content"]))
        self.assertNotIn(b"\x1b", done.stdout + done.stderr)
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/nonsense\n", says="there is no command /nonsense")
        self.refuse("chat", "-m", self.model, "-q", stdin=b"\xff\n", says="UTF-8")

    def test_a_conversation_goes_on_after_a_restart(self):
        def talk(*lines, more=()):
            done = self.call("chat", "-m", self.model, "-n", 12, "-q", "--temp", 0, "--ignore-eos", *more,
                             stdin="".join(line + "\n" for line in lines).encode())
            self.assertEqual(done.returncode, 0, done.stderr.decode())
            return done.stdout.decode(), done.stderr.decode()
        question = "Tell me of llamas, and of what they eat, and where they live, and how they hum."
        talk("/system Be brief.", question, "/save talk", "and then?", "/save whole.json")
        self.assertEqual((self.folder / "talk").stat().st_mode & 0o777, 0o600)
        answer, said = talk("/load talk", "/system", "and then?", "/stats", "/save again.json")
        whole = json.loads((self.folder / "whole.json").read_text())
        self.assertEqual(json.loads((self.folder / "again.json").read_text()), whole)
        self.assertEqual(answer, whole[-1]["content"] + "\n")
        self.assertIn("3 messages and ", said)
        self.assertIn("Be brief.", said)
        reused = int(re.search(r"\((\d+) of \d+ tokens reused\)", said).group(1))
        self.assertGreater(reused, 40)
        # An empty conversation, and what can't be loaded.
        talk("/save empty", "/load empty")
        for lines, more, says in (("/load absent", (), "absent: No such file"), ("/load again.json", (), "no saved session"),
                                  ("/load", (), "name of a file"), ("/save", (), "name of a file"),
                                  ("/load talk", ("--kv-type", "q8_0"), "open it for f16 \\(--kv-type\\)"),
                                  ("/load talk", ("--precise",), "--precise"),
                                  ("/load talk", ("--ctx", 40), "do not fit the context of 40"),
                                  ("/save no/such/folder", (), "No such file")):
            self.refuse("chat", "-m", self.model, "-q", *more, stdin=f"{lines}\n".encode(), says=says)

    def test_memory_and_budgets_from_a_pipe(self):
        planned = self.as_json("plan", "-m", self.model, "--json")["total_bytes"]
        done = self.call("chat", "-m", self.model, "-q", stdin=f"/memory\n/budget {planned + 2**20}\n".encode())
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(done.stdout, b"")
        self.assertRegex(done.stderr.decode(), r"(?m)^device +budget +in use +peak +fragmentation +waiters\n"
                                               r"host:0( +[\d.]+ \wiB){3} +[\d.]+% +0\n  weights( +[\d.]+ \wiB){2}$")
        self.assertRegex(done.stderr.decode(), rf"(?m)^host:0: budget {(planned / 2**20 + 1):.1f} MiB, .* in use\n\Z")
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/budget lots\n", says='"lots" is no number of bytes')
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/budget 1KiB\n", says=r"1\.0 KiB")

    def test_what_is_refused_does_not_end_the_conversation_of_a_pipe(self):
        wrong = (b"/budget lots", b"/budget 1KiB", b"/nonsense", b"\xff", b"/load absent", b"/save no/such/folder", b"/model absent",
                 b"/set temp many", b"/undo", b"/retry", b"word " * 5000)
        for lines, status in ((b"/memory\nhello\n", 0), (b"\n".join(wrong) + b"\nhello\n", 2),
                              (b"hello\n" + b"\n".join(wrong[:8]) + b"\n/stats\n", 2)):
            done = self.call("chat", "-m", self.model, "-n", 4, "-q", "--temp", 0, stdin=lines)
            self.assertEqual(done.returncode, status, done.stderr.decode())
            self.assertEqual(done.stdout, self.call("chat", "-m", self.model, "-n", 4, "-q", "--temp", 0,
                                                    stdin=b"hello\n").stdout)
            complaints = [line for line in done.stderr.decode().splitlines() if line.startswith("tropilla: ")]
            self.assertEqual(len(complaints), sum(line in wrong for line in lines.split(b"\n")), complaints)

    def test_colours_obey_no_color(self):
        t = self.open(NO_COLOR="")
        self.assertIn("\x1b[", t.read_until(r"> \S*$"))
        self.leave(t)
        t = self.open()
        self.assertNotRegex(t.read_until(self.prompt), r"\x1b\[[0-9;]*[1-9]m")
        self.leave(t)

    def test_a_full_context_says_how_to_go_on(self):
        t = self.begin("--ctx", "64", "--ignore-eos", "-n", "1000", "--no-context-shift")
        t.say("hello", r"context of 64 tokens is full; /clear begins[^>]*> $")
        t.say("again", r"the prompt has \d+ tokens and the context holds 64[^>]*/clear begins a new conversation\)[^>]*> $")
        t.say("/clear", r"new conversation\)[^>]*> $")
        self.leave(t)

    def test_a_terminal_that_can_do_nothing_has_a_prompt_and_no_codes(self):
        t = self.open(TERM="dumb")
        self.assertIn("/help lists the commands", t.read_until(r"> $"))
        seen = t.say("hello", r"stopped after 8 tokens[^>]*> $")
        seen += t.say("/nonsense", r"no command /nonsense[^>]*> $")
        self.assertNotIn("\x1b", seen)
        self.leave(t)


class Commands(Conversation):
    """What commands do, line by line from a pipe."""

    def talk(self, *lines, more=()):
        """What the model wrote, and what the program said."""
        done = self.call("chat", "-m", self.model, "-q", "--temp", 0, "-n", 8, "--ignore-eos", *more,
                         stdin="".join(line + "\n" for line in lines).encode())
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode(), done.stderr.decode()

    def saved(self, name):
        return json.loads((self.folder / name).read_text())

    def answer_to(self, messages, model=None, **options):
        """What `tropilla batch` answers to a conversation: the same model without a console."""
        line = {"messages": messages, "max_tokens": 8, "temperature": 0, **options}
        done = self.call("batch", "-", "-m", model or self.model, "-q", "--ignore-eos", "--ctx", 512,
                         stdin=(json.dumps(line) + "\n").encode())
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return json.loads(done.stdout)["text"]

    def test_options_are_set_and_shown(self):
        _, said = self.talk("/set temperature 0.8", "/set parameter top_k 4", "/set stop \\n", "/set verbose", "/params",
                            "/set temp default", "/set", "/set system Be brief.", "/system", more=("--seed", 5))
        self.assertRegex(said, r"(?m)^temp 0\.8 \(default 0\.6\)$")
        self.assertRegex(said, r"(?m)^temp +0\.8 \* +0\.6$")
        self.assertRegex(said, r"(?m)^top-k +4 \* +0$")
        self.assertRegex(said, r"(?m)^stop +\\n \* +none$")
        self.assertRegex(said, r"(?m)^seed +5 \* +0$")
        self.assertRegex(said, r"(?m)^stats +on \* +off$")
        self.assertRegex(said, r"(?m)^top-p +0\.9 +0\.9$")
        self.assertRegex(said, r"(?m)^temp +0\.6 +0\.6$")
        self.assertRegex(said, r"(?m)^Be brief\.$")
        for line, says in (("/set temp hot", 'temp must be a number from 0 to 100, not "hot"'),
                           ("/set tempe 1", r"did you mean temp\?"), ("/set num_ctx 99", "when the program starts")):
            self.refuse("chat", "-m", self.model, "-q", stdin=f"{line}\n".encode(), says=says)

    def test_options_that_are_set_change_the_answers(self):
        five, _ = self.talk("/set seed 5", "/set temp 1", "hello")
        self.assertEqual(five, self.talk("hello", more=("--seed", 5, "--temp", 1))[0])
        self.assertNotEqual(five, self.talk("hello", more=("--temp", 1))[0])
        short, said = self.talk("/set num_predict 3", "hello")
        self.assertIn("stopped after 3 tokens", said)

    def test_retry_answers_again_with_another_seed(self):
        hot = ("--temp", 1)
        _, said = self.talk("hello", "/retry", "/retry", "/save again.json", "/undo", "hello", "/retry",
                            "/save one.json", more=hot)
        self.assertRegex(said, r"(?s)again, with seed 1\).*again, with seed 2\).*again, with seed 1\)")
        self.assertEqual(len(self.saved("again.json")), 2)
        for name, seed in (("again.json", 2), ("one.json", 1)):
            answer, _ = self.talk("hello", more=(*hot, "--seed", seed))
            self.assertEqual(self.saved(name)[1]["content"] + "\n", answer)
        answers, said = self.talk("hello", "/retry", "/save same.json")
        self.assertIn("at temperature 0 the answer is the same", said)
        self.assertEqual(answers, (self.saved("same.json")[1]["content"] + "\n") * 2)
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/retry\n", says="no message yet")

    def test_undo_takes_the_last_exchange_back(self):
        _, said = self.talk("one", "two", "/save two.json", "/undo", "/save one.json", "two", "/stats", "/save again.json")
        self.assertIn('taken back: "two"; 2 messages are left', said)
        two = self.saved("two.json")
        self.assertEqual(self.saved("one.json"), two[:2])
        self.assertEqual(self.saved("again.json"), two)
        reused, of = map(int, re.search(r"\((\d+) of (\d+) tokens reused\)", said).groups())
        self.assertGreater(reused, of / 2)  # nothing of the first exchange is computed again
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/undo\n", says="no message yet")

    def test_another_model_goes_on_with_the_conversation(self):
        other = self.folder / "other.gguf"
        self.succeed("synth", "--shape", "mini", "--seed", 9, "-o", other, "-q")
        _, said = self.talk("/system Be brief.", "one", f"/model {other}", "two", "/model", "/save both.json")
        self.assertIn("the conversation goes on", said)
        self.assertIn(str(other), said)
        both = self.saved("both.json")
        self.assertEqual([m["role"] for m in both], ["system", "user", "assistant", "user", "assistant"])
        self.assertEqual(both[4]["content"], self.answer_to(both[:4], other))
        self.assertNotEqual(both[4]["content"], self.answer_to(both[:4]))

    def test_a_model_that_cannot_be_opened_leaves_the_former_one(self):
        wide = self.folder / "wide.gguf"
        self.succeed("synth", "--shape", "mini-wide", "-o", wide, "-q")
        planned = self.as_json("plan", "-m", self.model, "--json")["total_bytes"]
        for model, says in (("absent.gguf", "No such file"), (__file__, "GGUF"), (wide, "is open again")):
            with self.subTest(model=model):
                t = self.begin("--budget", planned)
                t.say("one", r"stopped after|> $")
                t.say(f"/model {model}", rf"tropilla: [^>]*{says}[^>]*> $")
                t.say("two", r"> $")
                self.assertEqual(self.said(t), ["one", "two"])
                self.leave(t)

    def test_a_conversation_longer_than_the_context_goes_on(self):
        lines = [f"question {i} about llamas, alpacas, vicunas and guanacos" for i in range(12)]
        _, said = self.talk("/system Be brief.", *lines, "/save long.json", "/stats", more=("--ctx", 256))
        whole = self.saved("long.json")
        self.assertEqual([m["content"] for m in whole if m["role"] == "user"], lines)
        left_out = sum(map(int, re.findall(r"does not know the (\d+) oldest messages", said)))
        self.assertGreater(left_out, 4)
        told = whole[:1] + whole[1 + left_out:-1]
        self.assertEqual(whole[-1]["content"], self.answer_to(told))
        self.assertNotEqual(whole[-1]["content"], self.answer_to(whole[1 + left_out:-1]))  # the system message counts
        used = int(re.search(r"context  (\d+) of 256 tokens", said).group(1))
        self.assertLess(used, 256)

    def test_an_answer_longer_than_the_context_goes_on(self):
        _, said = self.talk("hello", "and then?", more=("--ctx", 64, "-n", 200))
        self.assertEqual(said.count("the answer outgrew the context of 64 tokens"), 2)
        self.assertEqual(said.count("stopped after 200 tokens"), 2)
        self.assertIn("does not know the 2 oldest messages", said)
        _, said = self.talk("hello", more=("--ctx", 64, "-n", -1))
        self.assertIn("ends where the context of 64 tokens does", said)

    def test_a_message_longer_than_the_context_is_refused(self):
        t = self.begin("--ctx", "64", "--system", "Be brief.")
        t.say("hello", r"stopped after 8[^>]*> $")
        t.say("llama " * 80, r"makes a prompt of \d+ tokens with the system message, and the context holds 64[^>]*> $")
        self.assertEqual(self.said(t), ["hello"])
        self.leave(t)

    def test_a_byte_order_mark_is_no_part_of_the_first_message(self):
        self.talk("\ufeffhello", "\ufeffhello", "/save marked.json")
        said = [m["content"] for m in self.saved("marked.json") if m["role"] == "user"]
        self.assertEqual(said, ["hello", "\ufeffhello"])
        _, said = self.talk("\ufeff/system Be brief.", "/system")
        self.assertIn("\nBe brief.\n", said)


class Typing(Conversation):
    """Lines that come while an answer streams. The scalar kernels take 20 seconds to fill the context."""

    def begin_answer(self, *arguments):
        t = self.begin("--ignore-eos", "-n", "1000000", "--isa", "scalar", "-t", "1", *arguments)
        t.say("go on", r"go on\r\n[^\r]*\S")
        return t

    def stop(self, t):
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> ")

    def test_figures_are_shown_at_once_and_the_answer_goes_on(self):
        t = self.begin_answer()
        t.say("/memory", r"[\r\n]\S*device +budget +in use +peak +fragmentation +waiters\r\nhost:0 .*%  +0\r\n")
        t.read_until(r"  KV pages .*\r\n(  .*\r\n)+[^\r]*\S")
        t.say("/stats", r"\(no answer has ended yet\)\r\n[^\r]*\S")
        t.say("/memroy", r"no command /memroy \(did you mean /memory\?\)")
        self.stop(t)
        self.assertEqual(self.said(t), ["go on"])
        self.leave(t)

    def test_a_budget_changes_while_an_answer_streams(self):
        planned = self.as_json("plan", "-m", self.model, "--json")["total_bytes"]
        t = self.begin_answer()
        t.say(f"/budget {planned + 2**20}", rf"host:0: budget {planned / 2**20 + 1:.1f} MiB, .* in use\r\n[^\r]*\S")
        t.say("/budget 1KiB", r"tropilla: [^\n]*1\.0 KiB[^\n]*\r\n[^\r]*\S")
        t.say("/budget many", r'tropilla: "many" is no number of bytes[^\n]*\r\n[^\r]*\S')
        t.say("/budget", rf"host:0: budget {planned / 2**20 + 1:.1f} MiB, .* in use\r\n[^\r]*\S")
        self.stop(t)
        self.leave(t)

    def test_other_lines_are_the_next_messages(self):
        t = self.begin_answer()
        t.type('and é?\r"""\r/quit\r"""\rone\\\rtwo\r/save waited.json\r/reset\r')
        t.say("/stats", r"no answer has ended yet")  # the lines before it were read
        self.stop(t)
        t.read_until(r'\Aand é\?\r\n[^\r]*\S')
        self.stop(t)
        t.read_until(r'\A"""\r\n\.\.\. /quit\r\n\.\.\. """\r\n[^\r]*\S')
        self.stop(t)
        t.read_until(r"\Aone\\\r\n\.\.\. two\r\n[^\r]*\S")
        self.stop(t)
        t.read_until(r"\A/save waited.json\r\n[^>]*> /reset\r\n[^>]*new conversation[^>]*> $")
        self.assertEqual(self.said(t, "waited.json"), ["go on", "and é?", "/quit", "one\ntwo"])
        self.leave(t)

    def test_half_a_line_is_there_when_the_answer_ends(self):
        t = self.begin_answer("-n", "60")
        t.type("half a l")
        t.read_until(r"stopped after 60 tokens[^>]*>[^a-z]*half a l$")
        t.type("imb\x7f\x7f")
        t.say("ne", r"stopped after 60 tokens[^>]*> $")
        self.assertEqual(self.said(t), ["go on", "half a line"])
        self.leave(t)

    def test_lines_that_are_pasted_at_the_prompt_are_messages_one_after_another(self):
        t = self.begin("--ignore-eos")
        t.type("one\rtwo\rthr")
        t.read_until(r"> [^>]*thr$")
        t.say("ee", r"stopped after 8 tokens[^>]*> $")
        self.assertEqual(self.said(t), ["one", "two", "three"])
        self.leave(t)

    def test_what_is_typed_does_not_mix_into_the_answer(self):
        t = self.begin_answer("-n", "100")
        self.assertFalse(t.shows_keys())
        for _ in range(10):
            t.type("qzqz")
            t.read_until(r"\S")
        seen = t.read_until(r"stopped after 100 tokens[^>]*> ")
        self.assertNotIn("qzqz", seen)
        t.read_until("(qzqz){10}$")
        t.say("", r"stopped after 100 tokens[^>]*> $")
        self.assertEqual(self.said(t), ["go on", "qzqz" * 10])
        self.leave(t)

    def test_what_is_typed_while_the_model_loads_is_the_first_message(self):
        log = self.folder / "held"
        os.mkfifo(log)  # opened while the model loads, which waits for a reader
        t = self.open("--log-file", log)
        deadline = time.monotonic() + 20
        while t.shows_keys():
            self.assertLess(time.monotonic(), deadline)
        t.type("typed early\r")
        reader = os.open(log, os.O_RDONLY)
        self.addCleanup(os.close, reader)
        self.assertNotIn("typed early", t.read_until(r"lists the commands"))
        t.read_until(r"> typed early\r\n[^>]*> $")
        self.assertEqual(self.said(t), ["typed early"])
        self.leave(t)

    def test_what_was_typed_stays_when_the_answer_is_stopped(self):
        t = self.begin_answer()
        t.type("ls\x7fike thi\x1b[D")
        t.say("/stats\x15/stats", r"no answer has ended yet")  # Ctrl-U takes the line back
        t.type("like thi")
        t.read_until(r"\S")
        self.stop(t)
        t.read_until(r"like thi$")
        t.say("s", r"\r\n[^\r]*\S")
        self.stop(t)
        self.assertEqual(self.said(t), ["go on", "like this"])
        self.leave(t)

    def test_leaving_stops_the_answer(self):
        for keys in ("/quit\r", "/bye\r", "\x04"):
            with self.subTest(keys=keys):
                self.leave(self.begin_answer(), keys)


class Pasting(Conversation):
    """Text that a terminal marks as pasted."""

    def test_pasted_lines_are_one_message(self):
        t = self.begin()
        t.paste("one\rtwo\r\n\tthree\n")
        t.read_until(r"three")
        t.say("", self.prompt)
        t.type("look: ")
        t.paste('/quit\r"""\rend\\')
        t.say(" !", self.prompt)
        t.paste("a line")
        t.paste(", and more")
        t.say(".", self.prompt)
        self.assertEqual(self.said(t), ["one\ntwo\n\tthree", 'look: /quit\n"""\nend\\ !', "a line, and more."])
        t.paste("/system Be é.\n")  # one line is as if typed
        t.say("", r"with this system message[^>]*> $")
        self.leave(t)

    def test_pasted_bytes_that_are_no_text_do_no_harm(self):
        t = self.begin()
        t.paste(b"a\x00\x07\x1b[2J\xffb\rc\x1b[201")
        t.say("", self.prompt)
        self.assertEqual(self.said(t), ["a[2J\ufffdb\nc[201"])
        self.leave(t)

    def test_a_long_paste_is_shown_by_its_name_and_is_there_when_it_is_sent(self):
        t = self.begin()
        words = "word " * 200_000
        t.type("/system <")
        t.paste(words)
        t.read_until(r"\[pasted 1000000 bytes\]$")
        t.paste("x" * 2000)
        t.read_until(r"\[pasted 2000 bytes, no\. 2\]$")
        t.say(">", r"with this system message[^>]*> $")
        t.say("/save long.json", r"messages written[^>]*> $")
        self.assertEqual(json.loads((self.folder / "long.json").read_text())[0]["content"],
                         f"<{words}{'x' * 2000}>")
        t.paste("line\n" * 50_000)
        t.read_until(r"\[pasted 50000 lines\]$")
        t.say("", r"makes a prompt of \d+ tokens with the system message, and the context holds \d+[^>]*> $")
        t.paste("line\n" * 100)
        t.say("\x7f", r"new conversation|tropilla: |> $")  # a name that was edited is text
        self.leave(t)

    def test_a_paste_without_an_end_is_given_up_with_an_interrupt(self):
        t = self.begin()
        t.type("\x1b[200~one\rtwo\r/quit\r\x03")
        t.read_until(r"leaves\)[^>]*> $")
        t.say("hello", r"> $")
        self.assertEqual(self.said(t), ["hello"])
        self.leave(t)

    def test_pasted_lines_come_back_with_the_arrow_and_in_the_next_session(self):
        t = self.begin()
        t.paste("one\rtwo three")
        t.say("", self.prompt)
        self.leave(t, "/bye\r")
        t = self.begin()
        t.type("\x1b[A\x1b[A")
        t.read_until(r"one\S*\r*\n\r*two three$")
        t.say("", self.prompt)
        self.assertEqual(self.said(t), ["one\ntwo three"])
        self.leave(t)

    def test_a_paste_during_an_answer_is_the_next_message(self):
        t = self.begin("--ignore-eos", "-n", "1000000", "--isa", "scalar", "-t", "1")
        t.say("go on", r"go on\r\n[^\r]*\S")
        t.paste("/quit\r" + "a\r" * 14 + "b")
        t.type("\r\x1b[200~half\ra pa")
        t.say("", r"\S")
        t.type("\x03")
        t.read_until(r"\(stopped\)\r\n> \[pasted 16 lines\]\r\n[^\r]*\S")
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> ")
        t.type("ste\x1b[201~")
        t.read_until("half\r*\n\r*a pa\r*\n\r*ste$")
        t.say("", r"\r\n[^\r]*\S")
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> $")
        self.assertEqual(self.said(t), ["go on", "/quit\n" + "a\n" * 14 + "b", "half\na pa\nste"])
        self.leave(t)


class Leaving(Conversation):
    """The terminal is as it was, however the program goes."""

    marks, no_marks = "\x1b[?2004h", "\x1b[?2004l"

    def test_signals_and_crashes_give_the_terminal_back(self):
        for answering in (False, True):
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT):
                with self.subTest(answering=answering, signal=number):
                    t = self.open("--ignore-eos", "-n", "1000000", "--isa", "scalar", "-t", "1")
                    self.assertIn(self.marks, t.read_until(self.prompt))
                    if answering:
                        t.say("go on", r"go on\r\n[^\r]*\S")
                    self.assertFalse(t.shows_keys())
                    os.kill(t.pid, number)
                    self.assertEqual(t.status(), -number)
                    self.assertTrue(t.shows_keys())
                    self.assertIn(self.no_marks, t.text)

    def test_the_terminal_is_the_shells_while_the_program_is_stopped(self):
        t = self.terminal(["--norc", "--noprofile", "--noediting", "-i"], command="bash", PS1="$ ")
        t.read_until(r"\$ $")
        command = f"'{program()}' chat -m '{self.model}' --temp 0 --ignore-eos -n 1000000 --isa scalar -t 1"
        t.say(command, self.prompt)
        t.type("half")
        t.read_until("half$")
        t.type("\x1a")  # Ctrl-Z at the prompt
        t.read_until(r"Stopped[^$]*\$ $")
        self.assertTrue(t.shows_keys())
        t.say("fg", r"half$")
        self.assertFalse(t.shows_keys())
        t.type("\x03")  # still a key of the editor
        t.read_until(r"leaves\)[^>]*> $")
        t.say("go on", r"go on\r\n[^\r]*\S")
        t.type("\x1a")  # in the middle of an answer
        t.read_until(r"Stopped[^$]*\$ $")
        self.assertTrue(t.shows_keys())
        t.say("fg", r"chat [^\r]*\r\n[^\r]*\S")
        self.assertFalse(t.shows_keys())
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> $")
        t.type("\x04")
        t.read_until(r"\$ $")
        self.assertTrue(t.shows_keys())
        t.type("exit\r")
        t.status()

    def test_a_window_that_changes_its_size_shows_the_line_again(self):
        t = self.begin()
        t.type("words")
        t.read_until("words$")
        termios.tcsetwinsize(t.fd, (24, 60))
        t.read_until("words$")
        t.say("", self.prompt)
        self.leave(t)


if __name__ == "__main__":
    main()
