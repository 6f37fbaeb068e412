#!/usr/bin/env python3
"""The log of the program: where it goes, in which form, and that nothing is logged unless asked for.

    tests/app/test_log.py --bin build/release/bin/tropilla [Class[.test]...]

Run by ctest (label app).
"""
import json
import os
import pty
import re
import subprocess

from program import Program, main, program

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (trace|debug|info|warning|error) +[a-z]+: \S.*")
FRESH = re.compile(r" +\r\x1b\[K")  # how a line of its own begins on a terminal


class Log(Program):
    def run_it(self, *more, **environment):
        done = self.call("run", "-m", self.model, "-q", "-n", 4, "--ignore-eos", "--no-cache", *more, "Hello",
                         **environment)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done

    def objects(self, done):
        return [json.loads(line) for line in done.stderr.splitlines()]

    def test_nothing_is_logged_unless_asked_for(self):
        self.assertEqual(self.run_it().stderr, b"")
        self.assertEqual(self.run_it("--log-level", "off").stderr, b"")

    def test_lines_go_to_standard_error_and_leave_the_answer_alone(self):
        done = self.run_it("--log-level", "info")
        lines = done.stderr.decode().splitlines()
        for line in lines:
            self.assertRegex(line, LINE)
        for words in ("info    runtime: .*mini.gguf opens", "info    memory: host:0: .* are planned",
                      "info    loader: .* are there", "info    runtime: closed after"):
            self.assertTrue(any(re.search(words, line) for line in lines), (words, lines))
        self.assertEqual(done.stdout, self.run_it().stdout)

    def test_levels_are_by_component(self):
        def seen(*more, **environment):
            return {(o["component"], o["level"]) for o in self.objects(self.run_it("--log-json", *more, **environment))}
        self.assertEqual({c for c, _ in seen("--log-level", "scheduler=debug")}, {"scheduler"})
        mixed = seen("--log-level", "error,scheduler=debug,loader=trace")
        self.assertIn(("scheduler", "debug"), mixed)
        self.assertIn(("loader", "debug"), mixed)
        self.assertEqual({c for c, _ in mixed}, {"scheduler", "loader"})
        self.assertEqual({level for _, level in seen()}, {"info"})  # --log-json alone
        self.assertIn(("supervisor", "debug"), seen(TROPILLA_LOG_LEVEL="debug"))
        self.assertEqual(seen("--log-level", "error", TROPILLA_LOG_LEVEL="debug"), set())

    def test_a_file_of_options_has_the_keys(self):
        options = self.folder / "log.toml"
        log = self.folder / "from-options.log"
        options.write_text(f"log-level = 'scheduler=debug'\nlog-json = true\nlog-file = '{log}'\n")
        self.assertEqual(self.run_it("--config", options).stderr, b"")
        self.assertEqual({json.loads(line)["component"] for line in log.read_text().splitlines()}, {"scheduler"})

    def test_every_object_is_valid_whatever_a_model_calls_itself(self):
        hard = b'"\\\x1b[2J\n\xff\xc3'
        name = re.search(rb"mini, random weights, seed \d", self.model.read_bytes()).group()
        odd = self.folder / "odd.gguf"
        odd.write_bytes(self.model.read_bytes().replace(name, hard + name[len(hard):]))
        done = self.call("run", "-m", odd, "-q", "-n", 2, "--log-json", "hi")
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        opening = next(o["message"] for o in self.objects(done) if "opens" in o["message"])
        self.assertIn('"\\\x1b[2J\n\ufffd', opening)
        self.assertRegex(self.objects(done)[0]["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        plain = self.call("run", "-m", odd, "-q", "-n", 2, "--log-level", "info", "hi").stderr
        self.assertNotIn(b"\x1b", plain)
        for line in plain.decode().splitlines():
            self.assertRegex(line, LINE)

    def test_a_log_file_is_appended_to(self):
        log = self.folder / "run.log"
        log.write_text("before\n")
        for _ in range(2):
            self.assertEqual(self.run_it("--log-file", log).stderr, b"")
        lines = log.read_text().splitlines()
        self.assertEqual(lines[0], "before")
        for line in lines[1:]:
            self.assertRegex(line, LINE)
        self.assertEqual(sum("runtime: closed after" in line for line in lines), 2)

    def test_values_that_are_refused(self):
        run = ("run", "-m", self.model)
        self.refuse(*run, "--log-level", "inof", "hi", says=r'--log-level .*no log level "inof" \(did you mean "info"\?\)')
        self.refuse(*run, "--log-level", "info,laoder=debug", "hi", says=r'"laoder" \(did you mean "loader"\?\).*runtime')
        self.refuse(*run, "--log-level", "", "hi", says=r'no log level ""; there are trace, debug')
        self.refuse(*run, "hi", says=r"TROPILLA_LOG_LEVEL: .*no log level \"loud\"", TROPILLA_LOG_LEVEL="loud")
        self.refuse(*run, "--log-file", self.folder / "no" / "log", "hi", says="no/log.*No such file")
        self.refuse(*run, "--log-file", self.folder, "hi", says="Is a directory")

    def test_a_notice_is_said_once(self):
        (self.folder / "blocked").write_text("")
        def said(*more):
            done = self.call("run", "-m", self.model, "-n", 2, *more, "hi", XDG_CACHE_HOME=str(self.folder / "blocked"))
            return [line for line in done.stderr.decode().splitlines() if "not kept packed" in line]
        self.assertRegex(said()[0], "^note: ")
        for more in ((), ("--log-level", "warning"), ("--log-level", "error"), ("--log-level", "loader=info")):
            with self.subTest(more=more):
                self.assertEqual(len(said(*more)), 1)

    def test_every_command_that_opens_a_runtime_logs(self):
        text = self.folder / "text.txt"
        text.write_text("Llamas hum. " * 40)
        requests = self.folder / "requests.jsonl"
        requests.write_text('{"prompt": "hi"}\n{"prompt": "ho"}\n')
        for command in (["run", "-n", "2", "hi"], ["chat", "-n", "2"], ["batch", requests, "-n", "2"],
                        ["bench", "-p", "8", "-n", "2", "-r", "1"], ["eval", "-f", text, "--window", "16"]):
            with self.subTest(command=command[0]):
                done = self.call(command[0], "-m", self.model, "-q", "--log-json", *command[1:],
                                 stdin=b"" if command[0] == "chat" else b"hi\n")  # which tells of its answers there, too
                self.assertEqual(done.returncode, 0, done.stderr.decode())
                messages = [o["message"] for o in self.objects(done)]
                self.assertTrue(any("opens" in m for m in messages), messages)
                self.assertTrue(messages[-1].startswith("closed after"), messages)

    def test_on_a_terminal_lines_tear_neither_the_bar_nor_the_answer(self):
        def screen(*more):
            """What a terminal gets from both streams."""
            controller, terminal = pty.openpty()
            run = subprocess.Popen([program(), "run", "-m", self.model, "-n", "40", "--ignore-eos", *more, "Hello"],
                                   stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, cwd=self.folder,
                                   env={**self.environment, "TERM": "xterm", "NO_COLOR": "1"})
            os.close(terminal)
            text = b""
            while True:
                try:
                    block = os.read(controller, 65536)
                except OSError:  # how Linux says that the other side is closed
                    break
                text += block
            os.close(controller)
            self.assertEqual(run.wait(), 0)
            return text.decode().replace("\r\n", "\n")
        quiet = screen("-q")
        logged = screen("-q", "--log-level", "trace")
        records = re.findall(rf"(?:{FRESH.pattern}){LINE.pattern}\n", logged)
        self.assertGreater(len(records), 40)  # a step each, while the answer streams
        rest = re.sub(rf"(?:{FRESH.pattern}){LINE.pattern}\n", "", logged)
        self.assertNotIn("scheduler:", rest)
        self.assertEqual(rest.strip("\n"), quiet.strip("\n"))


if __name__ == "__main__":
    main()
