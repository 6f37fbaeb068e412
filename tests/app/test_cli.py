#!/usr/bin/env python3
"""The program as people and scripts use it: options and their layers, output, the console, mistakes.

    tests/app/test_cli.py --bin build/release/bin/tropilla [Class[.test]...]

The models are random ones that the program writes itself (`tropilla synth`). Run by ctest (label app), a class at a
time.
"""
import argparse
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = ["run", "chat", "tokenize", "detokenize", "inspect", "plan", "bench", "eval", "synth", "cache"]
PROGRAM = None  # set by main
TEXT = "Llamas hum, é and 你好.\n" * 40


class Program(unittest.TestCase):
    """A scratch folder with a small model, and ways to call the program in it."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.model = cls.folder / "mini.gguf"
        cls.environment = {k: v for k, v in os.environ.items() if not k.startswith("TROPILLA_")}
        cls.environment.update(HOME=str(cls.folder), XDG_STATE_HOME=str(cls.folder / "state"), LC_ALL="C.UTF-8")
        cls.environment.pop("NO_COLOR", None)
        cls.environment.pop("XDG_CACHE_HOME", None)
        subprocess.run([PROGRAM, "synth", "--shape", "mini", "-o", cls.model, "-q"], check=True, env=cls.environment)

    def call(self, *arguments, stdin=b"", **environment):
        return subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, capture_output=True, timeout=120,
                              cwd=self.folder, env={**self.environment, **environment})

    def succeed(self, *arguments, **more):
        done = self.call(*arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode()

    def as_json(self, *arguments, **more):
        return json.loads(self.succeed(*arguments, **more))

    def refuse(self, *arguments, says, **more):
        """Status 2, nothing on standard output, one sentence that says why."""
        done = self.call(*arguments, **more)
        sentence = done.stderr.decode()
        self.assertEqual(done.returncode, 2, sentence)
        self.assertEqual(done.stdout, b"")
        self.assertRegex(sentence, r"\Atropilla: [^\n]+\n\Z")
        self.assertRegex(sentence, says)


class Help(Program):
    def test_each_command_has_a_screen_of_help_with_an_example(self):
        for command in COMMANDS:
            for arguments in ([command, "--help"], [command, "-h"], ["help", command]):
                text = self.succeed(*arguments)
                self.assertLessEqual(len(text.splitlines()), 24, command)
                self.assertLessEqual(max(map(len, text.splitlines())), 100, command)
                self.assertRegex(text, rf"(?m)^Example:\n  .*tropilla {command} ")

    def test_the_overview_names_every_command(self):
        for arguments in ([], ["--help"], ["help"]):
            text = self.succeed(*arguments)
            for command in COMMANDS:
                self.assertRegex(text, rf"(?m)^  {command} ")
        self.assertRegex(self.succeed("--version"), r"\Atropilla \d+\.\d+\.\d+\n\Z")

    def test_help_names_every_option_that_parses(self):
        for command in COMMANDS:
            text = self.succeed(command, "--help")
            for option in re.findall(r"--[a-z][a-z0-9-]*", text):
                if option in ("--against", "--isa", "--template", "--trace", "--config", "--help", "--text"):
                    continue
                done = self.call(command, option + "=\x01", stdin=b"")
                self.assertNotIn("knows no option", done.stderr.decode(), f"{command} {option}")


class Mistakes(Program):
    def test_words_that_are_nearly_right_are_suggested(self):
        self.refuse("rnu", says=r'no command "rnu"; did you mean "run"\?')
        self.refuse("run", "--tepm", "1", says=r"did you mean --temp\?")
        self.refuse("run", "-m", self.model, "--template", "alpaca", says="one of llama3, chatml")

    def test_numbers_are_read_strictly(self):
        for option, value in [("-n", "0"), ("-n", "1x"), ("-n", "-1"), ("-n", "99999999999999999999"), ("--temp", "nan"),
                              ("--temp", "-0.1"), ("--top-p", "2"), ("-t", "0"), ("-t", "5000"), ("--ctx", "0"),
                              ("--budget", "lots"), ("--budget", "1e400GiB"), ("--seed", "x"), ("--isa", "mmx")]:
            with self.subTest(option=option, value=value):
                self.refuse("run", "-m", self.model, f"{option}={value}" if option.startswith("--") else option + value,
                            "hi", says=r"must be .*, not \"")

    def test_a_model_is_needed_and_must_be_one(self):
        broken = self.folder / "broken.gguf"
        self.refuse("run", "hi", says="no model: name one with -m")
        self.refuse("run", "-m", "absent.gguf", "hi", says="absent.gguf.*No such file")
        self.refuse("run", "-m", self.folder, "hi", says="is a folder, not a file")
        whole = self.model.read_bytes()
        for name, content, says in [
                ("empty", b"", "empty|too short|truncated|ends"), ("text", b"hello world, this is no model", "GGUF"),
                ("big-endian", b"GGUF" + struct.pack(">I", 3) + whole[8:], "big-endian|byte order"),
                ("version 1", b"GGUF" + struct.pack("<I", 1) + whole[8:], "version 1"),
                ("version 99", b"GGUF" + struct.pack("<I", 99) + whole[8:], "version 99"),
                ("many tensors", whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:], "tensor"),
                ("many keys", whole[:16] + struct.pack("<Q", 1 << 60) + whole[24:], "metadata|key|entr"),
                ("half", whole[: len(whole) // 2], "truncated|ends|past|outside|beyond")]:
            broken.write_bytes(content)
            for command in (["run", "-p", "hi"], ["inspect"], ["plan"], ["bench"], ["tokenize", "--text", "a"]):
                if name == "half" and command[0] == "tokenize":
                    continue  # the vocabulary is in its first half
                with self.subTest(file=name, command=command[0]):
                    self.refuse(*command, "-m", broken, says=says)

    def test_prompts_that_cannot_run(self):
        self.refuse("run", "-m", self.model, "--ctx", "8", "-p", "word " * 50, says=r"8")
        self.refuse("run", "-m", self.model, "-p", "a", "-f", "b", says="-p|--prompt|one")
        self.refuse("run", "-m", self.model, "-f", "absent.txt", says="absent.txt")
        self.refuse("run", "-m", self.model, stdin=b"\xff\xfe", says="UTF-8")
        self.refuse("run", "-m", self.model, stdin=b"", says="prompt")
        self.refuse("detokenize", "-m", self.model, "999999999", says="999999999")
        self.refuse("detokenize", "-m", self.model, "1", "x", says="x")
        self.refuse("eval", "-m", self.model, "-f", "absent.txt", says="absent.txt")

    def test_a_budget_too_small_says_what_is_needed(self):
        for command in (["run", "hi"], ["bench", "-r", "1"], ["chat"]):
            self.refuse(*command, "-m", self.model, "--budget", "1KiB", says=r"1(\.0)? KiB.*MiB|MiB.*1(\.0)? KiB")
        plan = self.call("plan", "-m", self.model, "--budget", "1KiB")
        self.assertEqual(plan.returncode, 2)
        self.assertIn(b"KV pages", plan.stdout)  # the table shows where the bytes go
        self.assertRegex(plan.stderr.decode(), r"\Atropilla: [^\n]*MiB[^\n]*\n\Z")
        needed = self.as_json("plan", "-m", self.model, "--ctx", 64, "--json")["total_bytes"]
        exactly = self.as_json("run", "-m", self.model, "--ctx", 64, "--budget", f"{needed}B", "-n", 2, "--json", "hi")
        self.assertEqual(exactly["plan_bytes"], needed)
        # A byte less, and layers are streamed, to the same reply; the smallest budget is what a hopeless plan shows.
        hopeless = self.call("plan", "-m", self.model, "--ctx", 64, "--budget", "1KiB", "--json")
        smallest = json.loads(hopeless.stdout)["total_bytes"]
        self.assertLess(smallest, needed)
        for budget in (needed - 1, smallest):
            tight = self.as_json("run", "-m", self.model, "--ctx", 64, "--budget", f"{budget}B", "-n", 2, "--json", "hi")
            self.assertEqual(tight["ids"], exactly["ids"])
            self.assertLessEqual(tight["peak_bytes"], budget)
        self.refuse("run", "-m", self.model, "--ctx", 64, "--budget", f"{smallest - 1}B", "hi", says="needs|budget")

    def test_the_cache_wants_a_verb_a_key_and_a_home(self):
        self.refuse("cache", says="ls or rm")
        self.refuse("cache", "list", says='not "list"')
        self.refuse("cache", "ls", "a1", says="takes no key")
        self.refuse("cache", "rm", says="keys .*or --all")
        self.refuse("cache", "rm", "--all", "a1", says="not both")
        self.refuse("cache", "ls", says="neither HOME nor XDG_CACHE_HOME", HOME="", XDG_CACHE_HOME="relative")
        (self.folder / "file").write_text("")
        self.refuse("cache", "ls", says="can't read .*Not a directory", XDG_CACHE_HOME=str(self.folder / "file"))

    def test_contexts_beyond_any_memory(self):
        self.refuse("run", "-m", self.model, "--ctx", 2147483647, "hi", says="context|memory|budget")

    def test_files_that_cannot_be_written(self):
        absent = self.folder / "no" / "such" / "folder"
        self.refuse("synth", "-o", absent / "x.gguf", "-q", says="No such file or directory")
        self.refuse("run", "-m", self.model, "--trace", absent / "t.json", "-n", 1, "hi", says="No such file or directory")
        if os.path.exists("/dev/full"):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([PROGRAM, "plan", "-m", self.model], stdout=full, stderr=subprocess.PIPE,
                                      env=self.environment)
            self.assertEqual(done.returncode, 2)
            self.assertIn(b"No space left on device", done.stderr)


class Output(Program):
    def test_run_as_json_has_what_scripts_need(self):
        reply = self.as_json("run", "-m", self.model, "--json", "-n", 5, "--ignore-eos", "Hello")
        for key in ("text", "prompt_tokens", "generated_tokens", "ids", "prefill_tok_s", "decode_tok_s", "ttft_s",
                    "plan_bytes", "peak_bytes", "rss_bytes"):
            self.assertIn(key, reply)
        self.assertEqual(reply["generated_tokens"], 5)
        self.assertEqual(len(reply["ids"]), 5)
        self.assertGreater(reply["rss_bytes"], reply["plan_bytes"] // 4)
        self.assertEqual(reply["plan_bytes"], reply["peak_bytes"])
        self.assertGreater(reply["ttft_s"], 0)

    def test_run_streams_text_and_ends_with_one_line_of_figures(self):
        done = self.call("run", "-m", self.model, "-n", 4, "Hello")
        last = done.stderr.decode().splitlines()[-1]
        self.assertRegex(last, r"^\[\d+ tokens in, \d+ out.*prefill .* tok/s, decode .* tok/s; first token after .* s; "
                               r"memory: .* planned, .* peak\]$")
        self.assertEqual(self.call("run", "-m", self.model, "-q", "-n", 4, "Hello").stderr, b"")

    def test_a_prompt_comes_from_words_an_option_a_file_or_standard_input(self):
        prompt = self.folder / "prompt.txt"
        prompt.write_text("Hello there")
        def ids(*arguments, **more):
            return self.as_json("run", "-m", self.model, "--json", "-n", 4, *arguments, **more)
        wanted = ids("-p", "Hello there")
        for other in (ids("Hello", "there"), ids("-f", prompt), ids(stdin=b"Hello there")):
            self.assertEqual(other["ids"], wanted["ids"])
            self.assertEqual(other["prompt_tokens"], wanted["prompt_tokens"])
        self.assertLess(ids("--raw", "-p", "Hello there")["prompt_tokens"], wanted["prompt_tokens"])

    def test_the_same_seed_gives_the_same_text_whatever_the_threads(self):
        def ids(seed, threads):
            return self.as_json("run", "-m", self.model, "--json", "-n", 12, "--temp", 1, "--seed", seed, "-t", threads,
                                "--ignore-eos", "Hello")["ids"]
        self.assertEqual(ids(7, 1), ids(7, 3))
        self.assertNotEqual(ids(7, 1), ids(8, 1))

    def test_special_tokens_are_recognised_only_when_asked(self):
        count = lambda *a: len(self.as_json("tokenize", "-m", self.model, "--text", "<|eot_id|>", "--json", *a))
        self.assertEqual(count("--special"), 1)
        self.assertGreater(count(), 1)
        self.assertEqual(count("--special", "--bos"), 2)

    def test_tokens_there_and_back(self):
        for text in (TEXT.encode(), b"", b"\r\n\t  x", "🙂‍↔️ 한국어".encode(), b"broken \xff\xc3 bytes"):
            ids = self.succeed("tokenize", "-m", self.model, "--json", stdin=text)
            back = self.call("detokenize", "-m", self.model, stdin=ids.encode())
            self.assertEqual(back.stdout, text)
        verbatim = self.folder / "verbatim.txt"
        verbatim.write_bytes(b"ends with a line end\n")
        self.assertEqual(self.as_json("tokenize", "-m", self.model, "-f", verbatim, "--json"),
                         self.as_json("tokenize", "-m", self.model, "--text", "ends with a line end\n", "--json"))

    def test_inspect_and_plan_agree_with_the_file(self):
        facts = self.as_json("inspect", self.model, "--json")
        self.assertEqual(facts["metadata"]["general.architecture"], "llama")
        table = self.succeed("inspect", self.model)
        for tensor in facts["tensors"]:
            self.assertIn(tensor["name"], table)
        plan = self.as_json("plan", "-m", self.model, "--json")
        self.assertEqual(plan["total_bytes"], sum(line["bytes"] for line in plan["lines"]))

    def test_plan_shows_pages_ring_and_what_is_left(self):
        def plan(*more):
            return self.as_json("plan", "-m", self.model, "--ctx", 100, "--json", "--no-measure", *more)
        whole = plan("--budget", "1GiB")
        self.assertEqual((whole["kv_pages"], whole["kv_page_tokens"]), (4, 32))
        self.assertEqual(whole["left_bytes"], (1 << 30) - whole["total_bytes"])
        self.assertEqual((whole["ring_slots"], whole["slot_bytes"]), (0, 0))
        self.assertIsNone(whole["predicted"])
        less = f"{whole['total_bytes'] - 1}B"
        tight = plan("--budget", less)
        ring = sum(line["bytes"] for line in tight["lines"] if line["purpose"] == "streaming ring")
        self.assertEqual(tight["ring_slots"] * tight["slot_bytes"], ring)
        self.assertGreater(tight["ring_slots"], 1)
        text = [self.succeed("plan", "-m", self.model, "--ctx", 100, "--no-measure", "--budget", less) for _ in "12"]
        self.assertEqual(text[0], text[1])
        self.assertNotIn("predicted", text[0])
        for sentence in (r"Context of 100 tokens: 4 KV pages of 32\.", rf"{tight['residency']} \(.*R stays, S is streamed",
                         r"ring of \d slots of .*B\)\.", r"\nBudget .*, of which .* are left\.\n\Z"):
            self.assertRegex(text[0], sentence)

    def test_plan_predicts_from_measured_speeds(self):
        predicted = self.as_json("plan", "-m", self.model, "--json")["predicted"]
        self.assertGreater(predicted["memory_bytes_s"], 0)
        self.assertGreater(predicted["operations_s"], 0)
        self.assertIn("read_bytes_s", predicted)  # null where the model is shorter than a read
        for which in ("decode", "prefill"):
            self.assertGreater(predicted[f"{which}_tok_s"], 0)
            self.assertIn(predicted["binds"][which], ("memory", "compute"))
        text = self.succeed("plan", "-m", self.model)
        self.assertRegex(text, r"\npredicted  decode \S+ tok/s: .* binds \(.*\)\n +prefill of 512: \S+ tok/s: .* binds")
        self.assertRegex(self.succeed("plan", "-m", self.model, TROPILLA_NO_MEASURE="1"), r"are left\.\n\Z")

    def test_bench_has_one_object_per_test_in_every_format(self):
        arguments = ["bench", "-m", self.model, "-p", "16,32", "-n", "4", "-r", "2", "-q", "-t", "1"]
        tests = self.as_json(*arguments, "-o", "json")
        self.assertEqual([t["test"] for t in tests], ["pp16", "pp32", "tg4"])
        for t in tests:
            for key in ("model", "type", "threads", "tok_s", "tok_s_stddev"):
                self.assertIn(key, t)
            self.assertGreater(t["tok_s"], 0)
        self.assertEqual(len(self.succeed(*arguments, "-o", "csv").splitlines()), 4)
        self.assertEqual(len(re.findall(r"(?m)^\|.*(pp16|pp32|tg4).*\|$", self.succeed(*arguments, "-o", "md"))), 3)

    def test_eval_scores_full_windows_and_compares(self):
        text = self.folder / "text.txt"
        text.write_text(TEXT)
        tokens = len(self.as_json("tokenize", "-m", self.model, "-f", text, "--json"))
        top = self.folder / "top1.txt"
        saved = self.folder / "logits.bin"
        first = self.as_json("eval", "-m", self.model, "-f", text, "--window", 64, "--dump-top1", top, "--save-logits",
                             saved, "--json")
        windows = tokens // 64
        self.assertGreater(windows, 1)
        self.assertEqual(first["scored"], windows * 63)
        self.assertEqual(len(top.read_text().split()), windows * 64)
        again = self.as_json("eval", "-m", self.model, "-f", text, "--window", 64, "--against", saved, "--json")
        self.assertEqual(again["perplexity"], first["perplexity"])
        self.assertEqual(again["top1_agreement"], 1)
        self.assertLess(again["mean_kl"], 1e-4)  # 16 bits per logit were kept
        self.refuse("eval", "-m", self.model, "-f", text, "--window", "1000000", says="not 1000000")
        self.refuse("eval", "-m", self.model, "-f", text, "--window", "2000", says="window")
        saved.write_bytes(saved.read_bytes()[:-3])
        self.refuse("eval", "-m", self.model, "-f", text, "--window", 64, "--against", saved, says="logits.bin")

    def test_the_cache_is_listed_and_emptied(self):
        packed = self.folder / ".cache" / "tropilla" / "packed"
        self.succeed("cache", "rm", "--all")
        self.succeed("run", "-m", self.model, "-n", 2, "--no-cache", "x")
        self.assertEqual(self.as_json("cache", "ls", "--json"), [])
        text = self.succeed("run", "-m", self.model, "-n", 9, "x")
        entry, = self.as_json("cache", "ls", "--json")
        self.assertEqual((entry["state"], entry["model"]), ("complete", "mini, random weights, seed 1"))
        for io in ("mmap", "direct", "buffered"):
            self.assertEqual(self.succeed("run", "-m", self.model, "-n", 9, "--io", io, "x"), text)
        (packed / entry["key"]).write_bytes(b"x" * entry["bytes"])  # damaged: absent, and built anew
        self.assertEqual(self.succeed("run", "-m", self.model, "-n", 9, "x"), text)
        self.assertEqual(self.as_json("cache", "ls", "--json")[0]["state"], "complete")
        self.succeed("cache", "rm", "--all")
        self.assertEqual(self.succeed("cache", "ls"), "0 entries, 0 B\n")
        self.assertEqual(self.succeed("cache", "rm", "--all"), "nothing to remove\n")
        packed.mkdir(parents=True, exist_ok=True)
        first, second = "a1" + "0" * 30, "a2" + "0" * 30
        (packed / first).write_bytes(b"not packed" * 1000)
        (packed / f"{second}.part").write_bytes(b"x" * 5000)
        (packed / "README").write_text("not an entry")
        self.assertEqual([(e["key"], e["state"], e["model"]) for e in self.as_json("cache", "ls", "--json")],
                         [(first, "unusable", ""), (second, "partial", "")])
        self.assertRegex(self.succeed("cache", "ls"), rf"(?m)^{first} .* \d{{4}}-\d\d-\d\d \d\d:\d\d  unusable$")
        self.refuse("cache", "rm", "a", says="begins more than one key")
        self.refuse("cache", "rm", "b", says='no entry "b" in ')
        self.refuse("cache", "rm", "", says='no entry ""')
        with open(packed / f"{second}.part") as builder:
            fcntl.flock(builder, fcntl.LOCK_EX)
            self.assertEqual(self.as_json("cache", "ls", "--json")[1]["state"], "building")
            self.refuse("cache", "rm", second, says="is being built by another process")
            done = self.call("cache", "rm", "--all")  # the rest goes, and the status says that not all did
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stdout.decode(), r"\Aremoved 1 entry, .*\n\Z")
            self.assertIn(b"is being built", done.stderr)
        self.assertEqual([e["key"] for e in self.as_json("cache", "rm", "a2", "--json")], [second])
        self.assertEqual([p.name for p in packed.iterdir()], ["README"])
        other = self.folder / "elsewhere" / "tropilla" / "packed"
        other.mkdir(parents=True)
        (other / first).write_bytes(b"")
        self.assertIn("1 entry", self.succeed("cache", "ls", XDG_CACHE_HOME=str(self.folder / "elsewhere")))

    def test_synth_repeats_itself(self):
        one, two, other = (self.folder / n for n in ("one.gguf", "two.gguf", "other.gguf"))
        self.succeed("synth", "-o", one, "--seed", 5, "--type", "Q4_K", "-q")
        self.succeed("synth", "-o", two, "--seed", 5, "--type", "Q4_K", "-q")
        self.succeed("synth", "-o", other, "--seed", 6, "--type", "Q4_K", "-q")
        self.assertEqual(one.read_bytes(), two.read_bytes())
        self.assertNotEqual(one.read_bytes(), other.read_bytes())

    def test_a_trace_opens_as_json_with_a_row_per_actor(self):
        trace = self.folder / "trace.json"
        self.succeed("run", "-m", self.model, "-n", 3, "--trace", trace, "hi")
        names = {e["args"]["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "thread_name"}
        self.assertGreater(len(names), 4)

    def test_a_reader_that_goes_away_ends_the_program_quietly(self):
        reader = subprocess.Popen([PROGRAM, "run", "-m", self.model, "-n", "100000", "--ignore-eos", "-q", "hi"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        reader.stdout.read(1)
        reader.stdout.close()
        self.assertEqual(reader.wait(timeout=60), 141)
        self.assertEqual(reader.stderr.read(), b"")
        reader.stderr.close()

    def test_an_interrupt_ends_a_reply_with_its_figures(self):
        child = subprocess.Popen([PROGRAM, "run", "-m", self.model, "-n", "1000000", "--ignore-eos", "hi"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        _, figures = child.communicate(timeout=60)
        self.assertIn(child.returncode, (0, 130))
        self.assertIn(b"stopped", figures)


class Layers(Program):
    """Command line, then environment, then file, then defaults."""

    def generated(self, *arguments, **environment):
        return self.as_json("run", "-m", self.model, "--json", "--ignore-eos", *arguments, "hi",
                            **environment)["generated_tokens"]

    def test_each_layer_wins_over_the_next(self):
        file = self.folder / "options.toml"
        file.write_text('max-tokens = 3\n[run]\ntemp = 0.5\n[bench]\nmax-tokens = 9\n')
        self.assertEqual(self.generated("--config", file), 3)
        self.assertEqual(self.generated("--config", file, TROPILLA_MAX_TOKENS="4"), 4)
        self.assertEqual(self.generated("--config", file, "-n", 5, TROPILLA_MAX_TOKENS="4"), 5)
        file.write_text('max-tokens = 3\n[run]\nmax-tokens = 6\n')
        self.assertEqual(self.generated("--config", file), 6)
        self.assertEqual(self.generated(TROPILLA_CONFIG=str(file)), 6)

    def test_a_name_is_looked_up_in_configs(self):
        (self.folder / "configs").mkdir(exist_ok=True)
        (self.folder / "configs" / "short.toml").write_text("max-tokens = 2\n")
        self.assertEqual(self.generated("--config", "short"), 2)
        self.refuse("run", "-m", self.model, "--config", "absent", "hi", says=r'no configuration "absent": tried ')

    def test_mistakes_in_a_file_name_the_line(self):
        file = self.folder / "bad.toml"
        for content, says in [("max-tokens = \n", r"bad.toml:1:"), ("temp = 1\nbroth = 2\n", r"bad.toml:2: broth is not an option"),
                              ("tmep = 2\n", r"did you mean temp\?"), ("max-tokens = [1]\n", "expected text, a number"),
                              ("max-tokens = -1\n", r"bad.toml: max-tokens: .*must be a whole number")]:
            file.write_text(content)
            with self.subTest(content=content):
                self.refuse("run", "-m", self.model, "--config", file, "hi", says=says)
        self.refuse("run", "-m", self.model, "hi", says="TROPILLA_TEMP: .*must be a number", TROPILLA_TEMP="hot")

    def test_the_files_in_configs_are_right(self):
        files = sorted((ROOT / "configs").glob("*.toml"))
        self.assertTrue(files)
        for file in files:
            for command in (["run", "-p", "hi"], ["chat"], ["bench"]):
                with self.subTest(file=file.name, command=command[0]):
                    done = self.call(*command, "--config", file, "-m", self.model, "--ctx", 64, "--budget", "1KiB")
                    self.assertIn("KiB", done.stderr.decode())  # all options parsed; then the budget is refused


class Terminal:
    """The program at a pseudo terminal, as a person has it."""

    def __init__(self, arguments, environment, folder):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(PROGRAM, [PROGRAM, *map(str, arguments)], environment)

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


def main():
    global PROGRAM
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin/tropilla")
    parser.add_argument("tests", nargs="*")
    options, rest = parser.parse_known_args()
    PROGRAM = str(options.bin.resolve())
    unittest.main(argv=[sys.argv[0], *rest, *options.tests])


if __name__ == "__main__":
    main()
