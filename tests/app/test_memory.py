#!/usr/bin/env python3
"""What requests and files can make grow: whatever they hold, the resident set stays within 1.05 times the plan and 24 MiB,
or the request is refused with the number.

    tests/app/test_memory.py [--bin build/release/bin/tropilla] [Class[.test]...]

Run by ctest (label app), a class at a time.
"""
import json
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True

from program import Program, main, program  # noqa: E402

MIB = 1 << 20
BESIDE = 24 * MIB  # of the plan, and a twentieth of it
# What a process has had resident survives exec: one that is small starts the program.
MEASURE = """
import os, sys
child = os.fork()
if child == 0:
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(child, 0)
open(sys.argv[1], "w").write(f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}")
"""


class Memory(Program):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        plan = subprocess.run([program(), "plan", "-m", cls.model, "--json", "--no-measure"], check=True,
                              capture_output=True, env=cls.environment)
        cls.planned = json.loads(plan.stdout)["total_bytes"]

    def peak(self, *arguments, stdin=None, output=None):
        """(status, standard error, resident bytes at most) of a run whose standard output goes to a file."""
        said, facts = self.folder / "said", self.folder / "facts"
        with open(output or os.devnull, "wb") as out, open(said, "wb") as err, \
                open(stdin or os.devnull, "rb") as into:
            subprocess.run([sys.executable, "-S", "-c", MEASURE, facts, program(), *map(str, arguments)], stdin=into,
                           stdout=out, stderr=err, cwd=self.folder, env=self.environment, check=True, timeout=120)
        status, kib = map(int, facts.read_text().split())
        return status, said.read_text(), kib * 1024

    def check(self, *arguments, plan=None, status=0, says="", **more):
        ended, said, peak = self.peak(*arguments, **more)
        self.assertEqual(ended, status, said)
        self.assertRegex(said, says or r"\A")
        self.assertLess(peak, 1.05 * (plan or self.planned) + BESIDE, (arguments, peak / MIB, said))

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    def test_prompts_that_cannot_fit_are_refused_before_they_are_tokenised(self):
        for name, text in (("words", "the quick brown fox " * 100000), ("word", "a" * 2000000)):
            file = self.write(name, text)
            for more in ((), ("--raw",)):
                self.check("run", "-q", "-m", self.model, "--no-cache", *more, "-f", file, status=2,
                           says=rf"{name} has more than [\d.]+ \wiB")
                self.check("run", "-q", "-m", self.model, "--no-cache", *more, stdin=file, status=2,
                           says=r"standard input has more than [\d.]+ \wiB")
        almost = self.write("almost", "a" * 400000)
        self.check("run", "-q", "-m", self.model, "--no-cache", "-f", almost, status=2,
                   says=r"the prompt has 400000 bytes, at least \d+ tokens, and the context holds \d+")

    def test_messages_of_a_conversation_are_refused_without_growing(self):
        long = self.write("long", "hello\n" + "a" * (30 * MIB) + "\n" + "b " * 400000 + "\nhello\n/stats\n")
        self.check("chat", "-q", "-m", self.model, "--no-cache", "-n", 2, stdin=long, status=2,
                   says=r"(?s)tropilla: a message has at most 1\.0 MiB.*tropilla: .*context.*tokens in")
        block = self.write("block", '"""\n' + ("a" * 1000 + "\n") * 30000 + '"""\n/stats\n')
        self.check("chat", "-q", "-m", self.model, "--no-cache", "-n", 2, stdin=block, status=2,
                   says="a message has at most 1\\.0 MiB")

    def test_lines_of_a_batch(self):
        for name, text, says in (
                ("long", json.dumps({"prompt": "x " * 8500000}), r"the line has \d+ bytes, more than the \d+"),
                ("word", json.dumps({"prompt": "a" * 900000}), r"the prompt has 900000 bytes, at least \d+ tokens"),
                ("ids", '{"prompt": [' + "0," * 400000 + "0]}", r"the line has more than \d+ values"),
                ("lists", '{"prompt": [' + "[]," * 300000 + "0]}", r"the line has more than \d+ values"),
                ("replies", json.dumps({"prompt": "hi", "n": 64, "max_tokens": 1900, "logprobs": 20}),
                 r"the replies may take [\d.]+ MiB .*, and a batch has [\d.]+ MiB for them")):
            file = self.write(f"{name}.jsonl", text + "\n")
            plan = self.as_json("plan", "-m", self.model, "--json", "--no-measure", "--parallel", 16)["total_bytes"]
            self.check("batch", "-q", "-m", self.model, "--no-cache", file, status=3, says=says, plan=plan)

    def test_many_replies_at_once_are_planned(self):
        many = ("run", "-q", "-m", self.model, "--raw", "--temp", 1, "--ignore-eos", "--no-cache", "-N", 32, "--json",
                "--logprobs", 20, "--ctx", 1024, "hi")
        out = self.folder / "many.json"
        ended, said, peak = self.peak(*many[:-1], "-n", 60, "hi", output=out)
        self.assertEqual(ended, 0, said)
        done = json.loads(out.read_text())
        self.assertLess(peak, 1.05 * done["plan_bytes"] + BESIDE)
        self.assertEqual(len(done["outputs"]), 32)
        for reply in done["outputs"]:
            self.assertEqual((len(reply["ids"]), len(reply["logprobs"])), (60, 60))
            self.assertEqual({len(token["top"]) for token in reply["logprobs"]}, {20})
        self.assertEqual(done["ids"], done["outputs"][0]["ids"])
        self.assertEqual(done["logprobs"], done["outputs"][0]["logprobs"])
        self.refuse(*many[:-1], "-n", 1000, "--kv", 1024, "--budget", "12MiB", "hi",
                    says=r"the budget of host:0 is 12\.0 MiB, .*requests [56]\.\d MiB")
        self.refuse(*many[:-1], "-n", -1, "--context-shift", "hi", says="a reply without end can't be kept")

    def test_pages_of_a_large_context_are_planned(self):
        arguments = ("-m", self.model, "--no-cache", "--kv", 2000000)
        plan = self.as_json("plan", "--json", "--no-measure", *arguments)
        requests = sum(line["bytes"] for line in plan["lines"] if line["purpose"] == "requests")
        self.assertGreater(requests, 172 * plan["kv_pages"])
        ended, said, peak = self.peak("run", "-q", *arguments, "-n", 4, "hi")
        small = self.peak("run", "-q", "-m", self.model, "--no-cache", "-n", 4, "hi")[2]
        self.assertEqual(ended, 0, said)
        self.assertLess(peak - small, 210 * plan["kv_pages"] + 4 * MIB)  # keys and values are not touched

    def test_weights_that_are_streamed_from_a_mapping_do_not_stay_resident(self):
        model = self.folder / "wide.gguf"
        subprocess.run([program(), "synth", "-q", "--shape", "mini-wide", "--type", "F32", "-o", model], check=True,
                       env=self.environment)
        least = int(1.05 * self.smallest(model))
        self.succeed("run", "-q", "-m", model, "-n", 1, "hi")  # leaves packed weights
        for mode in ("mmap", "buffered", "direct"):
            self.check("run", "-q", "-m", model, "-n", 4, "--io", mode, "--budget", least, "hi", plan=least)

    def smallest(self, model):
        said = self.call("plan", "-m", model, "--no-measure", "--budget", "1KiB").stderr.decode()
        amount, unit = re.search(r"the smallest budget that works is ([\d.]+) (MiB|GiB)", said).groups()
        return float(amount) * MIB * (1024 if unit == "GiB" else 1)


if __name__ == "__main__":
    main()
