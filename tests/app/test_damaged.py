#!/usr/bin/env python3
"""Packed weights that are damaged before a run or while its reply streams: the same text, status 0.

    tests/app/test_damaged.py [--bin build/release/bin/tropilla] [Class[.test]...]

Bits, zeroed blocks and truncation; each way to read; models that stay in memory, that are streamed, and that two devices
share. A sample of it; TROPILLA_TEST_DAMAGES=300 damages as many entries. TROPILLA_TEST_SEED chooses others.
Run by ctest (label app).
"""
import os
import random
import subprocess
import time

from program import Program, main, program

DAMAGES = int(os.environ.get("TROPILLA_TEST_DAMAGES", 24))
SEED = int(os.environ.get("TROPILLA_TEST_SEED", 1))


class Damaged(Program):
    def setUp(self):
        self.packed = self.folder / ".cache" / "tropilla" / "packed"
        refused = self.call("plan", "-m", self.model, "-c", 512, "--budget", "1MiB", "--io", "direct")
        least = refused.stderr.decode().split("the smallest budget that works is ")[1].split(",")[0].replace(" ", "")
        self.ways = {"whole": [], "streamed": ["--budget", least],
                     "two devices": ["--budget", "host:0=64MiB,host:1=64MiB"]}

    def command(self, way, io):
        return [program(), "run", "-m", str(self.model), "-q", "-n", "60", "-c", "512", "-t", "1", "--temp", "0",
                "--ignore-eos", *self.ways[way], *(["--io", io] if io else []), "hello"]

    @staticmethod
    def damage(path, content, kind, dice):
        """In place, as a disk or a stray program does it."""
        at = dice.randrange(len(content))
        try:
            with open(path, "r+b") as file:
                if kind == "cut":
                    file.truncate(at)
                else:
                    file.seek(at)
                    file.write(bytes([content[at] ^ 1 << dice.randrange(8)]) if kind == "bit"
                               else bytes(min(4096 << dice.randrange(6), len(content) - at)))
        except FileNotFoundError:
            pass  # the run has given it up, or is about to replace it

    def reply(self, way, io, disturb=None):
        """What a run says. Calls `disturb` when the first word has come."""
        process = subprocess.Popen(self.command(way, io), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=self.folder,
                                   env=self.environment)
        begin = os.read(process.stdout.fileno(), 1)
        if disturb:
            disturb()
        try:
            rest, said = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.fail(f"it hangs: {way}, {io}")
        return process.returncode, begin + rest, said.decode()

    def test_no_text_comes_from_damaged_entries(self):
        dice = random.Random(SEED)
        text, entries = {}, {}
        for way in self.ways:
            self.succeed("cache", "rm", "--all")
            status, text[way], said = self.reply(way, "")
            self.assertEqual(status, 0, said)
            entries[way] = {p: p.read_bytes() for p in self.packed.iterdir()}
            self.assertEqual(len(entries[way]), 2 if way == "two devices" else 1)
        mended = 0
        for n in range(DAMAGES):
            way, io = list(self.ways)[n % 3], ("", "direct", "buffered", "mmap")[n // 3 % 4]
            kind, streaming = ("bit", "block", "cut")[dice.randrange(3)], n // 12 % 2 == 1
            self.succeed("cache", "rm", "--all")
            for path, content in entries[way].items():
                path.write_bytes(content)
            time.sleep(0.01)  # entries are not damaged in the tick of the clock in which they were written
            path = dice.choice(sorted(entries[way]))

            def disturb(pause=dice.random() * 0.05):
                time.sleep(pause)
                self.damage(path, entries[way][path], kind, dice)

            if not streaming:
                self.damage(path, entries[way][path], kind, dice)
            with self.subTest(damage=n, way=way, io=io or "as suits", kind=kind, streaming=streaming):
                status, said, notes = self.reply(way, io, disturb if streaming else None)
                self.assertEqual((status, said), (0, text[way]), notes)
                status, said, notes = self.reply(way, io)  # whatever is left of it
                self.assertEqual((status, said), (0, text[way]), notes)
                mended += all(p.exists() and p.read_bytes() == c for p, c in entries[way].items())
        print(f"{DAMAGES} damaged, {mended} whole again after two runs")
        self.assertGreater(mended, DAMAGES // 2)


if __name__ == "__main__":
    main()
