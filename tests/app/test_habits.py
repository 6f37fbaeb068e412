#!/usr/bin/env python3
"""What people bring along from other programs: models in their folders, files from their editors, -1, redirections.

    tests/app/test_habits.py --bin build/release/bin/tropilla [Class[.test]...]

Run by ctest (label app), a class at a time.
"""
import json
import os
import re
import shutil
import subprocess

from program import Program, main, program


class Models(Program):
    def setUp(self):
        self.home = self.folder / self.id().rsplit(".", 1)[1]
        self.places = {"HOME": str(self.home)}

    def put(self, path, content=None):
        path = self.home / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if content is not None else shutil.copy(self.model, path)
        return path

    def listed(self, **environment):
        return self.as_json("models", "--json", **self.places, **environment)["models"]

    def test_models_of_all_programs_are_listed_once(self):
        self.put(".cache/tropilla/models/ours.gguf")
        blob = self.put(".cache/huggingface/hub/models--org--name/blobs/0123")
        for revision in ("a", "b"):
            link = self.home / f".cache/huggingface/hub/models--org--name/snapshots/{revision}/hub.Q4_0.gguf"
            link.parent.mkdir(parents=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        self.put(".lmstudio/models/org/repo/studio.gguf")
        self.put(".cache/llama.cpp/org_llama.gguf")
        self.put(".ollama/models/blobs/sha256-77")
        self.put(".ollama/models/manifests/registry.ollama.ai/library/mini/latest", json.dumps({"layers": [
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:77"}]}).encode())
        models = self.listed()
        self.assertEqual([(m["name"], m["owner"]) for m in models],
                         [("hub.Q4_0", "Hugging Face"), ("mini:latest", "ollama"), ("org_llama", "llama.cpp"),
                          ("ours", "tropilla"), ("studio", "LM Studio")])
        for m in models:
            self.assertEqual((m["architecture"], m["type"], m["bytes"]), ("llama", "Q4_0", self.model.stat().st_size))
            self.assertNotIn("problem", m)
        table = self.succeed("list", **self.places)  # as ollama calls it
        self.assertRegex(table, r"(?m)^hub\.Q4_0 +llama +Q4_0 +[\d.]+ [KM] +[\d.]+ [KM]iB +Hugging Face +~/\.cache/hugging")
        self.assertEqual([m["name"] for m in self.listed(HF_HUB_CACHE="/absent", LLAMA_CACHE="/absent")],
                         ["mini:latest", "ours", "studio"])

    def test_broken_files_and_strange_ones_are_listed_as_such(self):
        self.put(".cache/tropilla/models/broken.gguf", b"GGUF" + b"\xff" * 40)
        self.put(".cache/tropilla/models/empty.gguf", b"")
        os.mkfifo(self.home / ".cache/tropilla/models/pipe.gguf")
        (self.home / ".cache/tropilla/models/loop.gguf").symlink_to("loop.gguf")
        self.put(".cache/tropilla/models/split-00001-of-00002.gguf")
        for m in self.listed():
            self.assertIn(m["name"], ("broken", "empty", "split"))
            self.assertTrue(m["name"] == "split" or m["problem"], m)
        done = self.call("models", **self.places)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertRegex(done.stdout.decode(), r"(?m)^unreadable: .*broken\.gguf")

    def test_without_models_it_says_where_it_looked(self):
        text = self.succeed("models", **self.places)
        self.assertRegex(text, r"\Ano models; scripts/model\.sh obtains a small one")
        self.assertIn("~/.lmstudio/models", text)

    def test_m_takes_a_name(self):
        self.put(".lmstudio/models/org/repo/Studio-1B.gguf")
        self.put(".lmstudio/models/org/repo/Studio-3B.gguf")
        for name in ("Studio-1B", "Studio-1B.gguf", "1b"):
            self.assertEqual(self.as_json("plan", "-m", name, "--json", "--no-measure", **self.places)["sequences"], 1)
        self.assertIn("llama", self.succeed("inspect", "1b", **self.places))
        self.refuse("run", "-m", "studio", "hi", says='"studio" is the name of 2 models: Studio-1B, Studio-3B', **self.places)
        self.refuse("run", "-m", "sutdio-1b", "hi", says=r"did you mean Studio-1B\?", **self.places)
        (self.folder / "1b").write_bytes(b"a file of that name wins")
        self.refuse("inspect", "-m", "1b", says="GGUF", **self.places)
        (self.folder / "1b").unlink()

    def test_without_m_the_model_that_was_obtained_is_used(self):
        self.refuse("run", "hi", says="no model: name one with -m FILE", **self.places)
        self.put(".cache/tropilla/models/ours.gguf")
        done = self.call("run", "-n", 2, "hi", **self.places)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), r"(?m)^note: no -m: using ours of .*/\.cache/tropilla/models$")
        self.assertEqual(self.call("run", "-q", "-n", 2, "hi", **self.places).stderr, b"")
        self.assertNotIn(b"note", self.call("run", "--json", "-n", 2, "hi", **self.places).stderr)
        self.assertNotIn(b"note", self.call("run", "-n", 2, "hi", TROPILLA_MODEL=str(self.model), **self.places).stderr)
        self.assertEqual(self.call("chat", "-q", "-n", 2, stdin=b"hi\n", **self.places).returncode, 0)
        self.put(".cache/tropilla/models/two.gguf")
        self.refuse("run", "hi", says="has 2: ours, two; name one with -m", **self.places)

    def test_a_model_in_the_place_of_a_prompt_is_recognised(self):
        self.refuse("run", self.model, "hi", says=r"named with -m: tropilla run -m .*mini\.gguf")


class Input(Program):
    def ids(self, *arguments, **more):
        return self.as_json("run", "-m", self.model, "--json", "-n", 4, *arguments, **more)

    def test_a_byte_order_mark_is_no_part_of_a_prompt(self):
        file = self.folder / "windows.txt"
        file.write_bytes(b"\xef\xbb\xbfHello there\r\n")
        plain = self.ids("Hello there")
        for marked in (self.ids("-f", file), self.ids(stdin=file.read_bytes())):
            self.assertEqual((marked["prompt_tokens"], marked["ids"]), (plain["prompt_tokens"], plain["ids"]))

        def answer(text):
            return self.succeed("chat", "-q", "-m", self.model, "-n", 4, "--temp", 0, stdin=text)
        self.assertEqual(answer(b"\xef\xbb\xbfHello there\n"), answer(b"Hello there\n"))
        self.assertGreater(len(self.as_json("tokenize", "-m", self.model, "-f", file, "--json")),
                           len(self.as_json("tokenize", "-m", self.model, "--text", "Hello there\r\n", "--json")))

    def test_utf_16_is_named(self):
        file = self.folder / "utf16.txt"
        for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
            file.write_bytes("Hello there".encode(encoding))
            self.refuse("run", "-m", self.model, "-f", file, says="the prompt is UTF-16, not UTF-8; .*iconv -f UTF-16")
        done = self.call("chat", "-q", "-m", self.model, stdin="Hello\n".encode("utf-16"))
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"UTF-16", done.stderr)

    def test_closed_standard_output_is_named(self):
        for command in ("run -n 2 hi", "plan", "models --json", "--help", "run --help"):
            done = subprocess.run(["sh", "-c", f"exec {program()} {command} >&-"], stdin=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, env={**self.environment, "TROPILLA_MODEL": str(self.model)})
            self.assertEqual(done.returncode, 2, command)
            self.assertIn(b"standard output is closed", done.stderr, command)

    def test_files_do_not_take_the_place_of_closed_streams(self):
        trace = self.folder / "trace.json"
        done = subprocess.run(["sh", "-c", f"exec {program()} run -n 2 --trace {trace} hi <&- >&- 2>&-"],
                              env={**self.environment, "TROPILLA_MODEL": str(self.model)})
        self.assertEqual(done.returncode, 2)
        json.loads(trace.read_text())
        out = self.folder / "made.gguf"
        done = subprocess.run(["sh", "-c", f"exec {program()} synth -o {out} >&- 2>&-"], env=self.environment)
        self.assertEqual((done.returncode, out.read_bytes()[:4]), (0, b"GGUF"))


class Numbers(Program):
    def test_a_seed_of_minus_one_is_drawn_and_shown(self):
        run = ("run", "-m", self.model, "-n", 12, "--temp", 1, "--ignore-eos")
        first, second = (self.as_json(*run, "--seed", -1, "--json", "hi") for _ in "12")
        self.assertNotEqual(first["seed"], second["seed"])
        self.assertEqual(self.as_json(*run, "--seed", first["seed"], "--json", "hi")["ids"], first["ids"])
        self.assertRegex(self.call(*run, "-s", -1, "hi").stderr.decode(), r"; seed \d+; memory")
        self.assertNotIn("seed", self.call(*run, "-s", 3, "hi").stderr.decode())
        chat = self.call("chat", "-m", self.model, "-n", 4, "--seed=-1", stdin=b"hi\n")
        self.assertRegex(chat.stderr.decode(), r"(?m)^note: seed \d+$")

    def test_minus_one_tokens_go_on_to_the_end_of_the_context(self):
        reply = self.as_json("run", "-m", self.model, "-n", -1, "--ctx", 300, "--ignore-eos", "--json", "hi")
        self.assertEqual(reply["finish"], "context")
        self.assertEqual(reply["prompt_tokens"] + reply["generated_tokens"], 301)  # the last token is only told
        done = self.call("chat", "-m", self.model, "-q", "--ctx", 64, "--ignore-eos", stdin=b"hi\n", TROPILLA_MAX_TOKENS="-1")
        self.assertIn(b"ends where the context of 64 tokens does", done.stderr)
        self.refuse("run", "-m", self.model, "-n", -2, "hi", says="or -1 .until the context is full., not \"-2\"")

    def test_a_rate_that_was_not_measured_is_none(self):
        reply = self.as_json("run", "-m", self.model, "-n", 1, "--json", "hi")
        self.assertIsNone(reply["decode_tok_s"])
        self.assertIsNone(reply["overhead"])
        self.assertGreater(reply["prefill_tok_s"], 0)
        done = self.call("run", "-m", self.model, "-n", 1, "--stats", "hi")
        self.assertNotRegex(done.stderr.decode(), r"decode \d.*tok/s|\b0\.0 tok/s|overhead")
        self.refuse("bench", "-m", self.model, "-p", 0, "-n", 64, "--ctx", 32, says="--ctx 32 is too small .* 66 tokens")

    def test_bytes_are_for_people(self):
        for command in (("plan", "--no-measure"), ("plan", "--no-measure", "--all"), ("inspect",), ("cache", "ls"), ("models",)):
            text = self.succeed(*command, TROPILLA_MODEL=str(self.model))
            self.assertNotRegex(text, r"(?<![\w.])\d{6,}(?![\w.])", command)
        tight = self.call("plan", "-m", self.model, "--budget", "1MiB")
        sentence = tight.stderr.decode()
        self.assertNotRegex(sentence, r"\d{6,}")
        smallest = re.search(r"the smallest budget that works is ([\d.]+ [KMG]iB)", sentence).group(1)
        self.succeed("run", "-q", "-m", self.model, "--budget", smallest, "-n", 2, "hi")  # rounded up, not down


class Plan(Program):
    """`plan` refuses what `run` refuses, in the same words."""

    def test_both_say_the_same(self):
        absent = self.folder / "no" / "folder"
        for options in (("--ctx", 1), ("--ctx", 10 ** 6), ("--ctx", 0), ("--ctx", 2 ** 31), ("--ctx", 256, "--kv", 100),
                        ("--kv-type", "f32"), ("--isa", "mmx"), ("-t", 0), ("-t", 5000), ("--parallel", 0),
                        ("--parallel", 5000), ("--io", "tape"), ("--template", "alpaca"), ("--template", "chatml"),
                        ("--budget", "lots"), ("--budget", "1KiB"), ("--budget", "gpu:0=1GiB"), ("--budget", "cuda:99=1GiB"),
                        ("--budget", "host:1=1GiB"), ("--budget", "host:0=1GiB,host:0=1GiB"),
                        ("--budget", "host:0=1KiB,host:1=1GiB"), ("--budget", "host:0=1GiB,host:1=1KiB"),
                        ("--budget", "8000000GiB"), ("--pinned", "1GiB"), ("--trace", absent / "t.json"),
                        ("--trace", self.folder)):
            with self.subTest(options=options):
                run = self.call("run", "-m", self.model, *options, "-n", 1, "hi")
                plan = self.call("plan", "-m", self.model, "--no-measure", *options)
                self.assertEqual(run.returncode, 2)
                self.assertEqual(plan.returncode, 2)
                def words(done):
                    return done.stderr.decode().replace("tropilla run", "").replace("tropilla plan", "")
                self.assertEqual(words(plan), words(run))

    def test_a_trace_that_was_written_is_left_alone(self):
        trace = self.folder / "earlier.json"
        trace.write_text("earlier")
        self.succeed("plan", "-m", self.model, "--no-measure", "--trace", trace)
        self.assertEqual(trace.read_text(), "earlier")


if __name__ == "__main__":
    main()
