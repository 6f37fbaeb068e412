#!/usr/bin/env python3
"""Calls that the system refuses, at the start or in the middle of a reply: memory, threads, mappings, reads, eventfds,
io_uring; once, or from then on. The run ends with the same text, or with one sentence and status 2.

    tests/app/test_refused.py [--bin build/release/bin/tropilla] [Class[.test]...]

A sample of the calls, chosen by TROPILLA_TEST_SEED: TROPILLA_TEST_SAMPLES of each kind and way to run, or all where there
are fewer. The library that refuses lies beside the program. Run by ctest (label app).
"""
import json
import os
import pathlib
import random

from program import Program, main, program

SAMPLES = int(os.environ.get("TROPILLA_TEST_SAMPLES", "5"))  # of each kind of call and way to run
CHANCE = random.Random(int(os.environ.get("TROPILLA_TEST_SEED", "1")))


def sample(calls):
    """The numbers of some of the calls."""
    return sorted(CHANCE.sample(range(1, calls + 1), min(calls, SAMPLES)))


class Refused(Program):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        library = pathlib.Path(program()).with_name("libtropilla_refuse.so")
        cls.environment["LD_PRELOAD"] = str(library)
        cls.options = ["-m", cls.model, "-q", "-c", 256, "--temp", 0]
        cls.ways = {
            "in memory": ["--no-cache"],
            "streamed": ["--no-cache", "--budget", cls.least_budget(cls)],
            "two devices": ["--no-cache", "--budget", "host:0=64MiB,host:1=64MiB"],
        }

    def least_budget(self):
        plan = self.call(self, "plan", "-m", self.model, "-c", 256, "--budget", "1MiB", LD_PRELOAD="")
        return plan.stderr.decode().split("the smallest budget that works is ")[1].split(",")[0].replace(" ", "")

    def run_it(self, *more, **environment):
        # Where others want the cores, too, two threads that work in step take minutes.
        threads = 2 if environment["TROPILLA_REFUSE_CALL"] == "thread" else 1
        return self.call("run", *self.options, "-t", threads, "-n", 60, *more, "hello", **environment)

    def check(self, ran, sound):
        self.assertIn(ran.returncode, (0, 2), ran.stderr)
        if ran.returncode == 0:
            self.assertEqual(ran.stdout, sound.stdout, ran.stderr)
        else:
            self.assertTrue(sound.stdout.startswith(ran.stdout.rstrip(b"\n")), ran.stdout)
            self.assertRegex(ran.stderr.decode(), r"\A(tropilla: [^\n]+\n)+\Z")

    def refuse(self, call, *, ways=("in memory", "streamed", "two devices"), least=1, **environment):
        """Refuses each call, or a sample of them; every way to run makes at least `least`."""
        environment["TROPILLA_REFUSE_CALL"] = call
        count = self.folder / "count"
        for way in ways:
            sound = self.run_it(*self.ways[way], TROPILLA_REFUSE_COUNT=str(count), **environment)
            self.assertEqual(sound.returncode, 0, sound.stderr)
            calls = int(count.read_text())
            self.assertGreaterEqual(calls, least, way)
            for n in sample(calls):
                with self.subTest(call=call, number=n, of=calls, way=way, **environment):
                    self.check(self.run_it(*self.ways[way], TROPILLA_REFUSE=str(n), **environment), sound)

    def test_memory_once(self):
        self.refuse("malloc", least=100)

    def test_memory_from_then_on(self):
        self.refuse("malloc", least=100, TROPILLA_REFUSE_ON="1")

    def test_threads_once(self):  # for those that never come see test_threads.py
        self.refuse("thread", least=8, TROPILLA_REFUSE_START="1")

    def test_threads_from_then_on(self):
        """But for the four that CAF starts, right after it was seen that there are so many: it does not survive that."""
        (self.folder / "one.jsonl").write_text(json.dumps({"id": "1", "prompt": "hello", "max_tokens": 60}) + "\n")
        refuse = {"TROPILLA_REFUSE_CALL": "thread", "TROPILLA_REFUSE_START": "1"}
        count = self.folder / "count"
        for command in (["run", "-n", 60, "hello"], ["batch", "one.jsonl"]):
            command = [*command, *self.options, *self.ways["in memory"], "-t", 2]
            sound = self.call(*command, TROPILLA_REFUSE_COUNT=str(count), **refuse)
            self.assertEqual(sound.returncode, 0, sound.stderr)
            seen = -8
            for n in range(1, int(count.read_text()) + 1):
                if seen + 4 <= n < seen + 8:
                    continue
                with self.subTest(command=command[0], thread=n):
                    ran = self.call(*command, TROPILLA_REFUSE=str(n), TROPILLA_REFUSE_ON="1", **refuse)
                    self.assertEqual(ran.returncode, 2, ran.stderr)
                    self.assertEqual(ran.stdout, b"")
                    self.assertRegex(ran.stderr.decode(), r"\Atropilla: [^\n]* no more threads for [^\n]+\n\Z")
                    if b"threads for actors" in ran.stderr and n >= seen + 8:
                        seen = n

    def test_mappings(self):
        for more in ({}, {"TROPILLA_REFUSE_ON": "1"}):
            self.refuse("mmap", TROPILLA_REFUSE_START="1", **more)

    def test_reads(self):
        self.ways["io_uring refused"] = ["--no-cache", "--io", "buffered", *self.ways["streamed"][1:]]
        for more in ({}, {"TROPILLA_REFUSE_ON": "1"}):
            self.refuse("read", ways=("in memory", "streamed"), TROPILLA_REFUSE_START="1", **more)

    def test_events_and_queues(self):
        for call in ("eventfd", "uring"):
            for more in ({}, {"TROPILLA_REFUSE_ON": "1"}):
                self.refuse(call, ways=("in memory", "streamed"), TROPILLA_REFUSE_START="1", **more)

    def test_a_batch(self):
        requests = self.folder / "requests.jsonl"
        requests.write_text("".join(json.dumps({"id": str(i), "prompt": "hello", "max_tokens": 20}) + "\n"
                                    for i in range(8)))
        count = self.folder / "count"

        def batch(**environment):
            return self.call("batch", requests, *self.options, "-t", 1, "--no-cache", **environment)

        def texts(done):
            records = [json.loads(line) for line in done.stdout.decode().splitlines()]
            return {r["id"]: r.get("text") for r in records if r.get("text") is not None and not r.get("error")}

        sound = batch(TROPILLA_REFUSE_CALL="malloc", TROPILLA_REFUSE_COUNT=str(count))
        self.assertEqual(sound.returncode, 0, sound.stderr)
        wanted = texts(sound)
        self.assertEqual(len(wanted), 8, sound.stdout)
        calls = int(count.read_text())
        for more in ({}, {"TROPILLA_REFUSE_ON": "1"}):
            for n in sample(calls):
                with self.subTest(allocation=n, of=calls, **more):
                    ran = batch(TROPILLA_REFUSE_CALL="malloc", TROPILLA_REFUSE=str(n), **more)
                    self.assertIn(ran.returncode, (0, 2, 3), ran.stderr)
                    self.assertLessEqual(texts(ran).items(), wanted.items())


if __name__ == "__main__":
    main()
