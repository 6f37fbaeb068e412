"""What the tests of the benchmark scripts share: a small model, a page with a table's marks, and where programs are."""
import argparse
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = ROOT / "build/release/bin"  # or what main is told


class Benchmark(unittest.TestCase):
    MARK = None  # of the table in the page

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.home = pathlib.Path(folder.name)
        cls.model_file = cls.home / "mini.gguf"
        subprocess.run([BIN / "tropilla", "synth", "-q", "--shape", "mini", "--type", "Q4_0", "-o", cls.model_file],
                       check=True)
        cls.page = cls.home / "page.md"
        cls.page.write_text(f"before\n<!-- {cls.MARK}: begin -->\nold\n<!-- {cls.MARK}: end -->\nafter\n")


def main():
    global BIN
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--bin", type=pathlib.Path, default=BIN)
    known, rest = parser.parse_known_args()
    BIN = known.bin.resolve()
    ran = unittest.main(argv=[sys.argv[0], *rest], exit=False).result
    sys.exit(0 if ran.wasSuccessful() and ran.testsRun else 1)
