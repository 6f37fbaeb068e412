#!/usr/bin/env python3
"""`tropilla chat` as a person uses it, on a terminal of its own.

    tests/app/test_console.py --bin build/release/bin/tropilla [Class[.test]...]

Run by ctest (label app), a class at a time.
"""
import json
import os
import pty
import re
import select
import time

from program import Program, main, program


class Terminal:
    """The program at a pseudo terminal, as a person has it."""

    def __init__(self, arguments, environment, folder):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(program(), [program(), *map(str, arguments)], environment)

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
        os.write(self.fd, keys.encode())

    def say(self, line, then):
        """Types a line; what came up to and with the pattern `then`."""
        self.type(line + "\r")
        return self.read_until(then)

    def status(self):
        try:
            while select.select([self.fd], [], [], 20)[0]:
                self.text += os.read(self.fd, 65536).decode(errors="replace")
        except OSError:
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


class Conversation(Program):
    """Ways into `tropilla chat` at a terminal and out of it."""

    prompt = r"> $"

    def open(self, *arguments, **environment):
        return Terminal(["chat", "-m", self.model, "--temp", "0", "-n", "8", *arguments],
                        {**self.environment, "TERM": "xterm", "NO_COLOR": "1", **environment}, self.folder)

    def begin(self, *arguments):
        """A console at its first prompt."""
        t = self.open(*arguments)
        t.read_until(self.prompt)
        return t

    def leave(self, t, keys="\x04"):
        t.type(keys)
        self.assertEqual(t.status(), 0)


class Console(Conversation):
    def test_a_conversation_with_commands(self):
        t = self.open("--ignore-eos")
        self.assertIn("/help lists the commands", t.read_until(self.prompt))
        self.assertIn("/save FILE", t.say("/help", self.prompt))
        self.assertIn("stopped after 8 tokens", t.say("hello", r"tokens; -n[^>]*> $"))
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
                                  ("/load talk", ("--kv-type", "q8_0"), "--kv-type f16"),
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

    def test_colours_obey_no_color(self):
        t = self.open(NO_COLOR="")
        self.assertIn("\x1b[", t.read_until(r"> \S*$"))
        self.leave(t)
        t = self.open()
        self.assertNotRegex(t.read_until(self.prompt), r"\x1b\[[0-9;]*[1-9]m")
        self.leave(t)

    def test_a_full_context_says_how_to_go_on(self):
        t = self.begin("--ctx", "64", "--ignore-eos", "-n", "1000")
        t.say("hello", r"context of 64 tokens is full; /reset begins[^>]*> $")
        t.say("again", r"/reset begins a new conversation\)[^>]*> $")
        t.say("/reset", r"new conversation\)[^>]*> $")
        self.leave(t)


class Typing(Conversation):
    """Lines that come while an answer streams. The scalar kernels take 20 seconds to fill the context."""

    def begin_answer(self, *arguments):
        t = self.begin("--ignore-eos", "-n", "1000000", "--isa", "scalar", "-t", "1", *arguments)
        t.say("go on", r"go on\r\n[^\r]*\S")
        return t

    def stop(self, t):
        t.type("\x03")
        t.read_until(r"\(stopped\)[^>]*> ")

    def said(self, t, file=None):
        """What the person said, by the program's own account: a file, or one that it writes now, at a prompt."""
        if not file:
            file = "said.json"
            t.say(f"/save {file}", r"messages written[^>]*> $")
        return [m["content"] for m in json.loads((self.folder / file).read_text()) if m["role"] == "user"]

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
        t.read_until(r"stopped after 60 tokens[^>]*> [^>]*half a l$")
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

    def test_leaving_stops_the_answer(self):
        for keys in ("/quit\r", "\x04"):
            with self.subTest(keys=keys):
                self.leave(self.begin_answer(), keys)


if __name__ == "__main__":
    main()
