#!/usr/bin/env python3
"""Limits of the system: how large a file and a stack may be. Everything ends right, or with one sentence and status 2,
and leaves no half of a file.

    tests/app/test_limits.py [--bin build/release/bin/tropilla] [Class[.test]...]

Run by ctest (label app), a class at a time.
"""
import resource
import signal
import subprocess
import sys

sys.dont_write_bytecode = True

from program import Program, main, program  # noqa: E402

KIB = 1 << 10


class Limits(Program):
    def setUp(self):
        self.work = self.folder / self.id().rsplit(".", 1)[-1]
        self.work.mkdir()
        (self.work / "text").write_text("the quick brown fox\n" * 200)
        (self.work / "in.jsonl").write_text('{"prompt": "hi there you", "max_tokens": 8}\n' * 200)
        self.given = {"text", "in.jsonl"}
        # They lie on the stack.
        self.few_variables = {k: self.environment[k] for k in ("HOME", "XDG_STATE_HOME", "LC_ALL")}

    def limited(self, limit, size, *arguments, stdin=b""):
        """Standard output is a pipe, which no limit counts."""
        return subprocess.run([program(), *map(str, arguments)], input=stdin, capture_output=True, timeout=120,
                              cwd=self.work, env=self.few_variables,
                              preexec_fn=lambda: resource.setrlimit(limit, (size, size)))

    def left(self):
        return {p.name for p in self.work.iterdir()} - self.given

    def test_a_file_that_gets_too_large_is_named_and_not_left_half(self):
        model = ("-m", self.model, "-q", "--no-cache")
        for name, size, arguments in (
                ("m.gguf", 64 * KIB, ("synth", "-q", "--shape", "mini", "-o", "m.gguf")),
                ("logits", 8 * KIB, ("eval", *model, "-f", "text", "--window", 64, "--save-logits", "logits")),
                ("top1", KIB, ("eval", *model, "-f", "text", "--window", 64, "--dump-top1", "top1"))):
            done = self.limited(resource.RLIMIT_FSIZE, size, *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertRegex(done.stderr.decode(), rf"\Atropilla: [^\n]*{name}[^\n]*: File too large[^\n]*\n\Z")
            self.assertEqual(self.left(), set(), arguments)

    def test_a_conversation_that_cannot_be_saved_goes_on(self):
        lines = b"hello\n/save talk\nwhat do llamas eat, and where?\n/save talk.json\n/stats\n"
        done = self.limited(resource.RLIMIT_FSIZE, 64, "chat", "-m", self.model, "-q", "--no-cache", "-n", 4, stdin=lines)
        self.assertEqual(done.returncode, 2)
        said = done.stderr.decode()
        for name in ("talk", r"talk\.json"):
            self.assertRegex(said, rf"(?m)^tropilla: can't write {name}: File too large$")
        self.assertIn("tokens in", said)  # /stats of the second answer
        self.assertEqual(self.left(), set())

    def test_weights_that_cannot_be_kept_packed_are_a_notice(self):
        done = self.limited(resource.RLIMIT_FSIZE, 64 * KIB, "run", "-m", self.model, "-n", 4, "hi")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"not kept packed for the next start", done.stderr)
        self.assertEqual([p for p in (self.folder / ".cache").rglob("*") if p.is_file()], [])

    def test_a_trace_or_a_log_that_cannot_be_written_does_not_end_a_run(self):
        for name, option in (("trace", "--trace"), ("log", "--log-level=trace")):
            done = self.limited(resource.RLIMIT_FSIZE, KIB, "run", "-m", self.model, "--no-cache", "-n", 40,
                                "--ignore-eos", option, *(("trace",) if name == "trace" else ("--log-file", "log")), "hi")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("trace", self.left())

    def test_a_batch_goes_on_where_its_output_was_cut(self):
        batch = ("batch", "in.jsonl", "-o", "out.jsonl", "-m", self.model, "-q", "--no-cache")
        done = self.limited(resource.RLIMIT_FSIZE, 8 * KIB, *batch)
        self.assertEqual((done.returncode, done.stderr), (2, b"tropilla: can't write out.jsonl: File too large\n"))
        done = self.limited(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY, *batch)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len((self.work / "out.jsonl").read_text().splitlines()), 200)

    def test_a_stack_is_large_enough_or_named(self):
        threads = 4  # of their own, with stacks as the limit says where nobody says otherwise
        # Below, the dynamic linker needs more than there is before the program begins.
        for kib in (24, 32, 64, 128, 256, 511, 512, 600, 1023, 1024):
            done = self.limited(resource.RLIMIT_STACK, kib * KIB, "run", "-m", self.model, "-n", 4, "--no-cache", "-q",
                                "-t", threads, "hi")
            if kib < 512:
                self.assertEqual(done.returncode, 2, kib)
                self.assertEqual(done.stderr.decode(), f"tropilla: the stack is limited to {kib} KiB, and 512 KiB are "
                                                       "needed; raise the limit: ulimit -s 1024\n")
            else:
                self.assertEqual(done.returncode, 0, (kib, done.stderr))

    def test_the_smallest_stack_is_enough_for_the_deepest_settings(self):
        for depth, says in ((250, "expected text"), (10000, "nested")):
            (self.work / "deep.toml").write_text("a = " + "[" * depth + "]" * depth)
            done = self.limited(resource.RLIMIT_STACK, 512 * KIB, "run", "--config", "deep.toml", "hi")
            self.assertEqual(done.returncode, 2)
            self.assertIn(says, done.stderr.decode())

    def test_a_program_that_is_killed_while_it_writes_a_file_leaves_nothing(self):
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
            with subprocess.Popen([program(), "synth", "--shape", "llama-3.2-1b", "-o", "big.gguf"], cwd=self.work,
                                  env=self.environment, stderr=subprocess.PIPE) as writer:
                self.assertTrue(writer.stderr.readline().startswith(b"writing"))
                writer.send_signal(number)
                self.assertNotEqual(writer.wait(timeout=60), 0)
            self.assertEqual(self.left(), set(), number)


if __name__ == "__main__":
    main()
