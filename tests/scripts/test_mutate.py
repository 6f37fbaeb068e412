#!/usr/bin/env python3
"""tests/mutation/mutate.py on a repository of a few lines, with a stand-in for what finds mutations (which needs libclang).

    tests/scripts/test_mutate.py

Run by ctest (label scripts).
"""
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / "mutation/mutate.py"
CODE = '#include "memory/sum.hpp"\nint sum(int n) {\n  if (n > 100)\n    n = 100;\n  int s = zero();\n  for (int i = 1; i <= n; ++i)\n    s += i;\n  return s + 0;\n}\n'
TEST = ('#include "memory/sum.hpp"\n#include <cstdio>\n'
        'int main() { if (sum(4) == 10) return 0; std::puts("tests/unit/sum_test.cpp:3: FAILED"); return 1; }\n')
PROJECT = """cmake_minimum_required(VERSION 3.25)
project(small LANGUAGES CXX)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
include_directories(${CMAKE_SOURCE_DIR})
add_library(small STATIC memory/sum.cpp)
add_executable(test_memory tests/sum_test.cpp)
target_link_libraries(test_memory PRIVATE small)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
"""
# Stands for mutations.py: fixed places, found by their text.
FINDER = '''
import dataclasses
@dataclasses.dataclass(frozen=True)
class mutation:
    kind: str
    offset: int
    old: str
    new: str
    def applied_to(self, text):
        assert text[self.offset:self.offset + len(self.old)] == self.old
        return text[:self.offset] + self.new + text[self.offset + len(self.old):]
def read_source(path):
    return path.read_bytes().decode("latin-1")
def mutations_of(path, root, unit, options):
    text = read_source(path)
    return {"any": [mutation("any", text.index(old), old, new) for old, new in PLACES if old in text]}
PLACES = '''


class Mutations(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        for name, text in {"memory/sum.cpp": CODE, "memory/sum.hpp": "int sum(int n);\ninline int zero() { return 0; }\n",
                           "tests/sum_test.cpp": TEST, "CMakeLists.txt": PROJECT}.items():
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(text)
        (self.root / "tests/mutation").mkdir()
        shutil.copy(SCRIPT, self.root / "tests/mutation")
        for command in (["git", "init", "-q"], ["git", "add", "memory"],
                        ["cmake", "-G", "Ninja", "-B", "build/release", "-S", "."]):
            subprocess.run(command, cwd=self.root, check=True, stdout=subprocess.DEVNULL)

    def command(self, places, *more):
        (self.root / "tests/mutation/mutations.py").write_text(FINDER + repr(places) + "\n")
        return [sys.executable, "-B", self.root / "tests/mutation/mutate.py", "--tests", "memory", *map(str, more)]

    def mutate(self, places, *more, status=0):
        done = subprocess.run(self.command(places, *more), capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        self.assertEqual((self.root / "memory/sum.cpp").read_text(), CODE)
        return done.stdout + done.stderr

    def ends(self):
        lines = (self.root / "build/mutation/results.jsonl").read_text().splitlines()
        return {(r["old"], r["new"]): r["end"] for r in map(json.loads, lines) if "old" in r}

    def test_each_kind_of_end_is_recorded_and_what_does_not_compile_is_drawn_anew(self):
        places = [("<=", "<"), ("s += i", "nonsense"), ("+ 0;", "- 0;"), ("i = 1", "i = 0"), ("return 0", "return 7")]
        self.mutate(places, "--count", 4)
        self.assertEqual(self.ends(), {("<=", "<"): "killed", ("+ 0;", "- 0;"): "equivalent", ("i = 1", "i = 0"): "survived",
                                       ("return 0", "return 7"): "killed", **({("s += i", "nonsense"): "did not compile"}
                                       if ("s += i", "nonsense") in self.ends() else {})})
        report = self.mutate(places, "--report")
        self.assertIn("-  for (int i = 1; i <= n; ++i)\n+  for (int i = 0; i <= n; ++i)", report)
        self.assertRegex(report, r"all +2 +1 +1 +67%")
        number = next(r["id"] for r in map(json.loads, (self.root / "build/mutation/results.jsonl").read_text().splitlines())
                      if r["new"] == "i = 0")
        self.mutate(places, "--equivalent", number, "zero adds nothing")
        self.assertRegex(self.mutate(places, "--report"), r"(?s)zero adds nothing.*all +2 +0 +2 +100%")

    def test_the_test_that_found_it_is_named(self):
        self.assertIn("killed memory: unit/sum_test.cpp", self.mutate([("<=", "<")], "--count", 1))

    def test_a_mutant_that_hangs_is_ended_with_what_it_started_and_counts_as_killed(self):
        self.assertIn("killed by timeout", self.mutate([("++i", "i = 1")], "--count", 1, "--patience", 1))
        left = subprocess.run(["pgrep", "-f", str(self.root)], stdout=subprocess.PIPE, text=True).stdout
        self.assertEqual(left, "")

    def test_a_run_that_was_interrupted_goes_on(self):
        places = [("++i", "i = 1"), ("<=", "<")]
        process = subprocess.Popen(self.command(places, "--count", 2, "--patience", 2), stdout=subprocess.PIPE, text=True)
        first = process.stdout.readline()
        while ": any:" not in first:
            first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertLessEqual(len(self.ends()), 2)
        self.mutate(places, "--count", 2, "--patience", 2)
        self.assertEqual(self.ends(), {("++i", "i = 1"): "killed by timeout", ("<=", "<"): "killed"})
        self.assertIn("results of other sources", self.mutate([("<=", ">")], "--count", 2, status=2))

    def test_survivors_are_tried_again_when_there_are_more_tests(self):
        places = [("n > 100", "n > 101")]
        self.mutate(places, "--count", 1)
        self.assertEqual(set(self.ends().values()), {"survived"})
        (self.root / "tests/sum_test.cpp").write_text(TEST.replace("== 10", "== 11"))
        self.assertIn("fails already, without a mutation", self.mutate(places, "--again", status=2))
        (self.root / "tests/sum_test.cpp").write_text(TEST.replace("== 10", "== 10 && sum(101) == 5050"))
        self.mutate(places, "--again")
        self.assertEqual(set(self.ends().values()), {"killed"})

    def test_without_a_build_it_says_what_to_do(self):
        shutil.rmtree(self.root / "build/release")
        self.assertIn("run scripts/build.sh first", self.mutate([], "--count", 1, status=2))


if __name__ == "__main__":
    unittest.main(verbosity=1)
