#!/usr/bin/env python3
"""The program as people and scripts use it: options and their layers, output, mistakes, faults.

    tests/app/test_cli.py --bin build/release/bin/tropilla [Class[.test]...]

The models are random ones that the program writes itself (`tropilla synth`). Run by ctest (label app), a class at a
time.
"""
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import time

from program import Program, ROOT, main, program

COMMANDS = ["run", "chat", "batch", "tokenize", "detokenize", "inspect", "plan", "bench", "eval", "synth", "models",
            "cache", "devices"]
TEXT = "Llamas hum, é and 你好.\n" * 40


class Help(Program):
    def test_each_command_has_help_with_an_example(self):
        for command in COMMANDS:
            for arguments in ([command, "--help"], [command, "-h"], ["help", command]):
                text = self.succeed(*arguments)
                self.assertLessEqual(max(map(len, text.splitlines())), 100, command)
                self.assertRegex(text, rf"(?m)^Usage: tropilla {command}\b")
                self.assertRegex(text, rf"(?m)^Example:\n  .*tropilla {command}\b")

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
        self.refuse("-m", self.model, "-p", "hi", says=r'the command is missing before "-m": tropilla run')
        self.refuse("run", "--tepm", "1", says=r"did you mean --temp\?")
        self.refuse("run", "--temprature=1", says=r"did you mean --temperature\?")
        self.refuse("run", "-max-tokens", "1", says=r"did you mean --max-tokens\?")
        self.refuse("run", "-m", self.model, "--template", "alpaca", says="one of llama3, chatml")

    def test_inputs_without_an_end_are_refused(self):
        self.refuse("run", "-m", self.model, "--config", "/dev/zero", "hi", says="/dev/zero has more than 1.0 MiB")
        self.refuse("run", "-m", self.model, "-f", "/dev/zero", says="/dev/zero has more than 1.0 MiB")

    def test_what_other_programs_know_works_or_is_explained(self):
        reply = self.call("run", "-m", self.model, "-ngl", 99, "--ctx-size", 128, "--n-predict", 3, "--ignore-eos", "hi")
        self.assertEqual(reply.returncode, 0)
        self.assertRegex(reply.stderr.decode(), r"(?m)^note: -ngl changes nothing: --budget cuda:0 ")
        self.assertRegex(reply.stderr.decode(), r", 3 out \(-n reached\)")
        quiet = self.call("run", "-q", "-m", self.model, "-ngl", 99, "-n", 3, "hi")
        self.assertEqual((quiet.returncode, quiet.stderr), (0, b""))
        self.refuse("run", "-hf", "ggml-org/x", "hi", says="downloads nothing")
        self.refuse("pull", "llama3", says="pull is not supported, because tropilla downloads nothing")
        self.refuse("serve", says="serve is not supported: tropilla has no server yet")
        self.assertEqual(self.succeed("show", self.model), self.succeed("inspect", self.model))

    def test_numbers_are_read_strictly(self):
        for option, value in [("-n", "0"), ("-n", "1x"), ("-n", "-2"), ("-n", "99999999999999999999"), ("--temp", "nan"),
                              ("--temp", "-0.1"), ("--top-p", "2"), ("-t", "0"), ("-t", "5000"), ("--ctx", "0"),
                              ("--budget", "lots"), ("--budget", "1e400GiB"), ("--seed", "x"), ("--isa", "mmx"),
                              ("--kv-type", "f32"), ("--min-p", "1.5"), ("--typical-p", "0"), ("--repeat-penalty", "0"),
                              ("--frequency-penalty", "inf"), ("--presence-penalty", "x"), ("--penalty-window", "-2"),
                              ("--stop", "a\\q"), ("--stop", "\\x4"), ("--outputs", "0"), ("--logprobs", "21"),
                              ("--parallel", "0"), ("--kv", "0")]:
            with self.subTest(option=option, value=value):
                self.refuse("run", "-m", self.model, f"{option}={value}" if option.startswith("--") else option + value,
                            "hi", says=r"must be .*, not \"")

    def test_options_that_contradict_each_other(self):
        self.refuse("run", "-m", self.model, "--logprobs", 2, "hi", says="--logprobs needs --json")
        self.refuse("run", "-m", self.model, "--stop", "", "hi", says="a stop string is empty")
        self.refuse("run", "-m", self.model, "--ctx", 256, "--kv", 100, "hi", says="fewer than the context of 256")

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
        self.refuse("cache", "verify", "--all", says="all entries when no key is given")
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
                done = subprocess.run([program(), "plan", "-m", self.model], stdout=full, stderr=subprocess.PIPE,
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
        self.assertLessEqual(reply["peak_bytes"], reply["plan_bytes"])  # KV pages come when tokens lie on them
        self.assertGreater(reply["peak_bytes"], reply["plan_bytes"] // 2)
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

    def test_each_sampling_option_changes_what_is_drawn(self):
        def ids(*more, **environment):
            return self.as_json("run", "-m", self.model, "--json", "-n", 30, "--temp", 2, "--seed", 3, "--ignore-eos",
                                *more, "Hello", **environment)["ids"]
        plain = ids()
        for option in (("--min-p", 0.5), ("--typical-p", 0.1), ("--repeat-penalty", 5), ("--top-k", 2)):
            with self.subTest(option=option):
                self.assertNotEqual(ids(*option), plain)
        # Greedy, with a penalty that outweighs every logit: no token comes twice, but for those outside of the window.
        def greedy(*more):
            return ids("--temp", 0, *more)
        for penalty in ("--frequency-penalty", "--presence-penalty"):
            self.assertEqual(len(set(greedy(penalty, 100))), 30)
        self.assertLess(len(set(greedy("--presence-penalty", 100, "--penalty-window", 3))), 30)
        self.assertEqual(ids(TROPILLA_MIN_P="0.5"), ids("--min-p", 0.5))

    def test_text_that_stops_a_reply(self):
        def reply(*more, **environment):
            return self.as_json("run", "-m", self.model, "--json", "-n", 40, "--ignore-eos", *more, "Hello",
                                **environment)
        text = reply()["text"]
        stop = text[len(text) // 2:][:3]
        cut = text[:text.index(stop)]
        hexed = "".join(f"\\x{byte:02X}" for byte in stop.encode())
        file = self.folder / "stop.toml"
        file.write_text(f"stop = ['never there', '{hexed}']\n")
        for ways in (("--stop", hexed), ("--stop", "never there", "--stop", hexed), ("--config", file)):
            with self.subTest(ways=ways):
                self.assertEqual([reply(*ways)[key] for key in ("text", "finish")], [cut, "stop"])
        self.assertEqual(reply(TROPILLA_STOP=hexed)["text"], cut)
        file.write_text(f"stop = ['never there', '{hexed}']\n[run]\nstop = 'never either'\n")
        self.assertEqual(reply("--config", file)["text"], text)

    def test_several_outputs(self):
        run = ("run", "-m", self.model, "-n", 6, "--temp", 1, "--ignore-eos")
        one = self.as_json(*run, "--json", "Hello")
        three = self.as_json(*run, "--json", "-N", 3, "Hello")
        self.assertNotIn("outputs", one)
        self.assertEqual(three["ids"], one["ids"])  # the first is what a request for one gives
        self.assertEqual([len(o["ids"]) for o in three["outputs"]], [6, 6, 6])
        self.assertEqual(len({tuple(o["ids"]) for o in three["outputs"]}), 3)
        shown = self.succeed(*run, "-N", 3, "-q", "Hello")
        for number, output in enumerate(three["outputs"], 1):
            self.assertIn(f"[{number} of 3]\n{output['text']}", shown)

    def test_probabilities_come_with_the_tokens(self):
        reply = self.as_json("run", "-m", self.model, "-n", 4, "--json", "--logprobs", 3, "--ignore-eos", "Hello")
        self.assertEqual([t["id"] for t in reply["logprobs"]], reply["ids"])
        for token in reply["logprobs"]:
            self.assertEqual(len(token["top"]), 3)
            self.assertEqual(token["top"][0]["id"], token["id"])  # greedy
            self.assertLess(token["logprob"], 0)

    def test_devices_are_listed_with_what_they_have(self):
        report = self.as_json("devices", "--json")
        host = report["devices"][0]
        self.assertEqual((host["name"], host["usable"]), ("host:0", True))
        self.assertGreater(host["memory_bytes"], host["free_bytes"])
        self.assertGreater(host["bandwidth_bytes_s"], 1e8)
        self.assertEqual(len(report["devices"]) == 1, "no_gpu_because" in report)
        topology = host["topology"]
        self.assertEqual(topology["units"], len(os.sched_getaffinity(0)))
        self.assertLessEqual(topology["threads"], topology["cores"])
        self.assertIn(f"{topology['cores']} core", host["what"])
        table = self.succeed("devices")
        self.assertRegex(table, r"(?m)^host:0 .* GB/s$")
        self.assertRegex(table, rf"(?m)^cores: {topology['cores']}\b.*; computes with {topology['threads']} thread")
        if len(report["devices"]) == 1:
            self.assertIn(f"no GPU: {report['no_gpu_because']}", table)
            self.refuse("run", "-m", self.model, "--budget", "cuda:0=1GiB", "x", says="cuda:0 can't be used: ")

    def test_a_topology_from_the_environment_or_a_mask_leads_to_no_units_that_do_not_exist(self):
        own = self.as_json("devices", "--json")["devices"][0]["topology"]
        fake = {"HWLOC_SYNTHETIC": "package:8 core:64 pu:2"}
        faked = self.as_json("devices", "--json", **fake)["devices"][0]["topology"]
        self.assertEqual((faked["units"], faked["caches"], faked["numa_nodes"]), (own["units"], [], []))
        run = ("run", "-m", self.model, "-n", 1, "--json", "Hi")
        self.assertLessEqual(self.as_json(*run, **fake)["threads"], own["units"])
        before = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {max(before)})
        masked = self.as_json("devices", "--json")["devices"][0]["topology"]
        self.assertEqual((masked["units"], masked["cores"], masked["threads"]), (1, 1, 1))
        self.assertEqual(self.as_json(*run)["threads"], 1)

    def test_a_context_that_shifts_goes_on(self):
        run = ("run", "-m", self.model, "-n", 90, "--json", "--ignore-eos", "--ctx", 64, "Hello")
        self.assertEqual(self.as_json(*run)["finish"], "context")
        shifted = self.as_json(*run, "--context-shift")
        self.assertEqual((shifted["finish"], shifted["generated_tokens"]), ("length", 90))
        kept = self.as_json(*run, "--context-shift", "--context-keep", 20)
        self.assertEqual((kept["finish"], kept["generated_tokens"]), ("length", 90))
        self.refuse(*run, "--context-shift", "--context-keep", 32, says="at most 31")

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
        self.assertEqual(whole["kv_type"], "f16")
        self.assertEqual(plan("--kv-type", "q8_0")["kv_type"], "q8_0")
        self.assertLess(plan("--kv-type", "q8_0")["total_bytes"], whole["total_bytes"])
        less = f"{whole['total_bytes'] - 1}B"
        tight = plan("--budget", less)
        ring = sum(line["bytes"] for line in tight["lines"] if line["purpose"] == "streaming ring")
        self.assertEqual(tight["ring_slots"] * tight["slot_bytes"], ring)
        self.assertGreater(tight["ring_slots"], 1)
        text = [self.succeed("plan", "-m", self.model, "--ctx", 100, "--no-measure", "--budget", less) for _ in "12"]
        self.assertEqual(text[0], text[1])
        self.assertNotIn("predicted", text[0])
        for sentence in (r"Context of 100 tokens: 4 KV pages of 32 in f16\.", rf"{tight['residency']} \(.*R stays, S is streamed",
                         r"ring of \d slots of .*B\)\.", r"\nBudget .*, of which .* are left\.\n\Z"):
            self.assertRegex(text[0], sentence)

    def test_plan_shows_the_ends_that_memory_flows_between(self):
        arguments = ("plan", "-m", self.model, "--ctx", 2048, "--parallel", 4)
        def plan(budget, *more):
            return self.as_json(*arguments, "--kv", 4096, "--budget", budget, "--json", *more)
        whole = plan("1GiB", "--no-measure")
        self.assertEqual(len(whole["divisions"]), 1)
        self.assertEqual((whole["kv_tokens"], whole["max_kv_tokens"], whole["max_kv_pages"]), (4096, 4096, 128))
        self.assertNotIn("Memory flows", self.succeed(*arguments, "--no-measure"))
        budget = f"{whole['total_bytes'] - 400_000}B"
        tight = plan(budget)
        divisions = tight["divisions"]
        self.assertGreater(len(divisions), 1)
        self.assertLessEqual(len(divisions), 16)
        self.assertEqual(divisions[-1]["kv_tokens"], tight["max_kv_tokens"])
        self.assertLess(tight["kv_tokens"], tight["max_kv_tokens"])
        self.assertEqual(tight["kv_tokens"] % tight["extent_tokens"], 0)
        self.assertIn((tight["kv_tokens"], tight["streamed_bytes"], tight["total_bytes"]),
                      [(d["kv_tokens"], d["streamed_bytes"], d["total_bytes"]) for d in divisions])
        for one, more in zip(divisions, divisions[1:]):
            self.assertLess(one["kv_tokens"], more["kv_tokens"])
            self.assertNotEqual(one["streamed_bytes"], more["streamed_bytes"])
        self.assertTrue(all(d["total_bytes"] <= tight["budget_bytes"] for d in divisions))
        self.assertEqual([c["tokens"] for c in tight["predicted"]["more_pages_from"]], [2048, 512])
        self.assertTrue(all(d["decode_tok_s"] is None for d in plan(budget, "--no-measure")["divisions"]))
        text = self.succeed(*arguments, "--kv", 4096, "--budget", budget)
        self.assertRegex(text, r"\d+ KV pages of 32 in f16 at first, up to 128 later\.")
        self.assertRegex(text, r"\nMemory flows between two ends: \d+ tokens with KV pages and [^\n]+,\n"
                               r"or 4096 tokens and [\d.]+ [KM]iB streamed per step\.\n")
        if divisions[-1]["decode_tok_s"]:  # reads of the file could be measured
            self.assertRegex(text, r"\n +one sequence: \S+ tok/s with pages for \d+ tokens, \S+ tok/s with pages for 4096;\n"
                                   r" +[^\n]+ tok/s\n\Z")

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
        deep = self.as_json(*arguments, "-d", "40", "-o", "json")
        self.assertEqual([t["test"] for t in deep], ["pp16@d40", "pp32@d40", "tg4@d40"])
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

    def test_the_cache_is_verified(self):
        cache = {"XDG_CACHE_HOME": str(self.folder / "verified")}
        self.assertEqual(self.succeed("cache", "verify", **cache), "")
        self.succeed("run", "-m", self.model, "-n", 2, "x", **cache)
        entry, = self.as_json("cache", "ls", "--json", **cache)
        packed = self.folder / "verified" / "tropilla" / "packed"
        path = packed / entry["key"]
        whole = path.read_bytes()
        model = "mini, random weights, seed 1"
        self.assertEqual(self.succeed("cache", "verify", **cache), f"{path.name}  sound     {model}\n")
        self.refuse("cache", "verify", "f" * 32, says="no entry", **cache)
        for at in (len(whole) // 2, 9000):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:])
            done = self.call("cache", "verify", path.name[:8], **cache)
            self.assertEqual(done.returncode, 2)
            self.assertRegex(done.stdout.decode(),
                             rf"\A{path.name}  damaged   {model} \(section .* of {path} is damaged: .*\)\n\Z")
            self.assertRegex(done.stderr.decode(),
                             rf"(?m)^tropilla: 1 of 1 entries is not sound; .*tropilla cache rm {path.name}$")
        (packed / ("a" * 32)).write_bytes(whole)
        (packed / ("b" * 32 + ".part")).write_bytes(whole)
        done = self.call("cache", "verify", "--json", **cache)
        self.assertEqual(done.returncode, 2)
        self.assertEqual({e["key"][0]: e["state"] for e in json.loads(done.stdout)},
                         {path.name[0]: "damaged", "a": "unusable", "b": "partial"})
        text = self.succeed("run", "-m", self.model, "-n", 9, "--no-cache", "x")
        ran = self.call("run", "-m", self.model, "-n", 9, "x", **cache)
        self.assertEqual((ran.returncode, ran.stdout.decode()), (0, text))
        self.assertIn(f"note: the packed weights {path} are damaged", ran.stderr.decode())
        self.assertEqual(self.succeed("cache", "verify", path.name, **cache), f"{path.name}  sound     {model}\n")
        self.assertEqual(path.read_bytes(), whole)

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
        reader = subprocess.Popen([program(), "run", "-m", self.model, "-n", "100000", "--ignore-eos", "-q", "hi"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        reader.stdout.read(1)
        reader.stdout.close()
        self.assertEqual(reader.wait(timeout=60), 141)
        self.assertEqual(reader.stderr.read(), b"")
        reader.stderr.close()

    def test_an_interrupt_ends_a_reply_with_its_figures(self):
        child = subprocess.Popen([program(), "run", "-m", self.model, "-n", "1000000", "--ignore-eos", "--context-shift", "hi"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        _, figures = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 130)
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
                              ("max-tokens = -2\n", r"bad.toml: max-tokens: .*must be a whole number")]:
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
                    done = self.call(*command, "--config", file, "-m", self.model, "--ctx", 640, "--budget", "1KiB")
                    self.assertIn("KiB", done.stderr.decode())  # all options parsed; then the budget is refused


class Faults(Program):
    def test_layers_divide_between_devices(self):
        run = ("run", "-m", self.model, "-n", 9, "-q", "x")
        text = self.succeed(*run)
        self.assertEqual(self.succeed(*run, "--budget", "host:0=64MiB,host:1=32MiB"), text)
        plan = self.as_json("plan", "-m", self.model, "--budget", "host:0=64MiB,host:1=32MiB", "--json", "--no-measure")
        self.assertEqual({line["device"] for line in plan["lines"]}, {"host:0", "host:1"})
        for budget, words in (("host:1=1GiB", "must be host:0"), ("host:0=1GiB,host:0=1GiB", "must be host:1"),
                              ("host:0=1GiB,", "a size like"), ("host:0=1KiB,host:1=1GiB", "budget of host:0"),
                              ("gpu:0=1GiB", "must be host:0"), ("cuda:99=1GiB", "cuda:99")):
            self.refuse(*run, "--budget", budget, says=words)

    def test_processes_that_pack_at_once_leave_one_entry(self):
        cache = self.folder / "at once"
        environment = {**self.environment, "XDG_CACHE_HOME": str(cache)}
        command = [program(), "run", "-m", self.model, "-n", "9", "-q", "x"]
        processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(4)]
        texts = {p.communicate(timeout=60)[0] for p in processes}
        self.assertEqual([p.returncode for p in processes], [0] * 4)
        self.assertEqual(len(texts), 1)
        entries = self.as_json("cache", "ls", "--json", XDG_CACHE_HOME=str(cache))
        self.assertEqual([e["state"] for e in entries], ["complete"])

    def test_an_interrupt_at_any_moment_leaves_no_half_of_anything(self):
        smallest = self.as_json("plan", "-m", self.model, "--budget", 2 ** 40, "--json")["total_bytes"] - 900_000
        for moment in range(24):
            cache = self.folder / f"interrupted {moment}"
            environment = {**self.environment, "XDG_CACHE_HOME": str(cache)}
            command = [program(), "run", "-m", self.model, "-n", "1000000", "--budget", str(smallest), "--ignore-eos",
                       "--context-shift", "x"]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            replying = moment >= 16
            if replying:
                process.stdout.read(1)
            time.sleep(moment % 16 * 0.004)  # from before main to the middle of the reply
            process.send_signal(signal.SIGINT)
            words = process.communicate(timeout=60)[1]
            ways = (130,) if replying else (130, -signal.SIGINT)  # the last: before it could listen
            self.assertIn(process.returncode, ways, words)
            left = list((cache / "tropilla" / "packed").glob("*.part")) if process.returncode >= 0 else []
            self.assertEqual(left, [])


if __name__ == "__main__":
    main()
