#!/usr/bin/env python3
"""Memory that is refused once, in the middle of a reply: the run ends with the same text, or with one sentence.

    tests/faults/test_refused.py --bin build/release/bin/tropilla --preload build/release/tests/libtropilla_refuse.so [--each]

A sample of the allocations, or each (--each, for releases: minutes). Run by ctest (label app).
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

PROGRAM = PRELOAD = None  # set by main
SAMPLES = 30  # of each way to run
PATIENCE = 20  # seconds; a run takes a fraction of one


class Refused(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.home = pathlib.Path(folder.name)
        cls.model = cls.home / "mini.gguf"
        subprocess.run([PROGRAM, "synth", "-q", "--shape", "mini", "--type", "Q4_0", "-o", cls.model], check=True)

    def run_it(self, more, **environment):
        command = [PROGRAM, "run", "-m", self.model, "-q", "-n", "60", "-c", "256", "--temp", "0", "--no-cache", *more, "hello"]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE,
                              env={**os.environ, "LD_PRELOAD": str(PRELOAD), **environment})

    def refuse_each(self, *more):
        count = self.home / "count"
        sound = self.run_it(more, TROPILLA_REFUSE_COUNT=str(count))
        self.assertEqual(sound.returncode, 0, sound.stderr)
        allocations = int(count.read_text())
        self.assertGreater(allocations, SAMPLES)
        for n in range(1, allocations + 1, 1 if SAMPLES == 0 else max(1, allocations // SAMPLES)):
            with self.subTest(allocation=n, of=allocations, options=more):
                ran = self.run_it(more, TROPILLA_REFUSE=str(n))
                self.assertIn(ran.returncode, (0, 2), ran.stderr)
                if ran.returncode == 0:
                    self.assertEqual(ran.stdout, sound.stdout)
                else:
                    self.assertTrue(sound.stdout.startswith(ran.stdout.rstrip(b"\n")), ran.stdout)
                    self.assertEqual(ran.stderr.count(b"tropilla: "), 1, ran.stderr)

    def test_with_all_weights_in_memory(self):
        self.refuse_each()

    def test_with_weights_that_are_streamed(self):
        plan = subprocess.run([PROGRAM, "plan", "-m", self.model, "-c", "256", "--budget", "1MiB"], capture_output=True, text=True)
        least = plan.stderr.split("the smallest budget that works is ")[1].split(",")[0].replace(" ", "")
        self.refuse_each("--budget", least)

    def test_on_two_devices(self):
        self.refuse_each("--budget", "host:0=64MiB,host:1=64MiB", "-t", "2")


def main():
    global PROGRAM, PRELOAD, SAMPLES
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--preload", type=pathlib.Path, required=True)
    parser.add_argument("--each", action="store_true")
    known, rest = parser.parse_known_args()
    PROGRAM, PRELOAD = known.bin.resolve(), known.preload.resolve()
    SAMPLES = 0 if known.each else SAMPLES
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
