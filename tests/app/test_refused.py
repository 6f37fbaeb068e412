#!/usr/bin/env python3
"""Memory that is refused once, in the middle of a reply: the run ends with the same text, or with one sentence.

    tests/app/test_refused.py [--bin build/release/bin/tropilla] [Class[.test]...]

A sample of the allocations; TROPILLA_TEST_EACH=1 refuses each of them (minutes). The library that refuses lies beside the
program. Run by ctest (label app).
"""
import os
import pathlib

from program import Program, main, program

SAMPLES = 30  # of each way to run


class Refused(Program):
    def run_it(self, more, **environment):
        library = pathlib.Path(program()).with_name("libtropilla_refuse.so")
        return self.call("run", "-m", self.model, "-q", "-n", 60, "-c", 256, "--temp", 0, "--no-cache", *more, "hello",
                         LD_PRELOAD=str(library), **environment)

    def refuse_each(self, *more):
        count = self.folder / "count"
        sound = self.run_it(more, TROPILLA_REFUSE_COUNT=str(count))
        self.assertEqual(sound.returncode, 0, sound.stderr)
        allocations = int(count.read_text())
        self.assertGreater(allocations, SAMPLES)
        for n in range(1, allocations + 1, 1 if os.environ.get("TROPILLA_TEST_EACH") else allocations // SAMPLES):
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
        plan = self.call("plan", "-m", self.model, "-c", 256, "--budget", "1MiB")
        least = plan.stderr.decode().split("the smallest budget that works is ")[1].split(",")[0].replace(" ", "")
        self.refuse_each("--budget", least)

    def test_on_two_devices(self):
        self.refuse_each("--budget", "host:0=64MiB,host:1=64MiB", "-t", "2")


if __name__ == "__main__":
    main()
