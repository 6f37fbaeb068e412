#!/usr/bin/env python3
"""scripts/build.sh: what it asks of CMake and Ninja, and what it says meanwhile.

The script under test is the real one, in a folder of its own, with a cmake and a ninja that write down how they were
called. Run by ctest (label scripts), or by hand: tests/scripts/test_build.py
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
CMAKE = """#!/bin/sh
echo "$@" >>"$CALLS/cmake"
mkdir -p build/release
[ -z "$CMAKE_FAILS" ] || { printf -- '-- words\\nCMake Error at CMakeLists.txt:1 (message):\\n  %s\\n\\n' "$CMAKE_FAILS"; exit 1; }
touch build/release/build.ninja
"""
NINJA = """#!/bin/sh
echo "$@" >>"$CALLS/ninja"
echo "ninja: Entering directory"
echo "@0/1 Re-checking globbed directories..."
eval "$NINJA_DOES"
"""


class BuildScript(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "scripts").mkdir()
        for name in ("build.sh", "common.sh"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        (self.root / "CMakePresets.json").write_text("{}")
        tools = self.root / "tools"
        tools.mkdir()
        for name, text in (("cmake", CMAKE), ("ninja", NINJA)):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.environment = dict(os.environ, PATH=f"{tools}:{os.environ['PATH']}", CALLS=str(self.root),
                                NINJA_DOES='echo "ninja: no work to do."', CMAKE_FAILS="")
        self.environment.pop("TROPILLA_CUDA", None)

    def build(self, *arguments, **environment):
        return subprocess.run(["bash", self.root / "scripts/build.sh", "--no-deps", *arguments], text=True,
                              env=dict(self.environment, **environment), capture_output=True, timeout=60)

    def built(self, *arguments, **environment):
        result = self.build(*arguments, **environment)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, "")
        return result.stderr

    def calls(self, tool):
        path = self.root / tool
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def cached(self, **values):
        (self.root / "build/release/CMakeCache.txt").write_text("".join(f"{k}:BOOL={v}\n" for k, v in values.items()))

    def test_configures_once_and_then_says_nothing_when_nothing_is_to_be_done(self):
        self.assertEqual(self.built(), "tropilla: configuring build/release\n")
        self.assertEqual(self.calls("cmake"), ["--preset release"])
        self.assertEqual(self.built(), "")
        self.assertEqual(self.calls("cmake"), [])

    def test_says_how_far_a_long_build_is(self):
        """Ninja waits until the line was read."""
        gate = self.root / "gate"
        os.mkfifo(gate)
        does = f'echo "@37/212 Building CXX object a.o"; read -r word <"{gate}"; echo "@212/212 Linking CXX executable"'
        with subprocess.Popen(["bash", self.root / "scripts/build.sh", "--no-deps"], text=True, stderr=subprocess.PIPE,
                              env=dict(self.environment, NINJA_DOES=does)) as process:
            self.assertEqual(process.stderr.readline(), "tropilla: configuring build/release\n")
            self.assertRegex(process.stderr.readline(), r"^tropilla: building: 37 of 212 files, \d+ s\n$")
            gate.write_text("go on\n")
            rest = process.stderr.read()
        self.assertEqual(process.returncode, 0)
        self.assertRegex(rest, r"^(tropilla: building: .*\n)*tropilla: built in \d+ s\n$")

    def test_shows_the_compilers_words_and_its_failure(self):
        result = self.build(NINJA_DOES='echo "@1/2 Building"; echo "a.cpp:1:2: error: no"; printf "no newline"; exit 1')
        self.assertEqual(result.returncode, 2)
        self.assertEqual(result.stderr.splitlines()[1:], ["a.cpp:1:2: error: no", "no newline",
                                                          "tropilla: the build failed (the compiler's words are above)"])

    def test_shows_why_cmake_fails_and_tries_again_the_next_time(self):
        result = self.build(CMAKE_FAILS="there is no nvcc")
        self.assertEqual(result.returncode, 2)
        self.assertIn("there is no nvcc", result.stderr)
        self.assertNotIn("-- words", result.stderr)
        self.assertEqual(self.calls("ninja"), [])
        self.built()
        self.assertEqual(len(self.calls("cmake")), 2)

    def test_builds_only_the_program_when_asked_and_the_rest_later(self):
        self.built("--program")
        self.assertEqual(self.calls("cmake"),
                         ["--preset release -DTROPILLA_TESTS=OFF -DTROPILLA_BENCH=OFF -DTROPILLA_EXAMPLES=OFF "
                          "-DCMAKE_UNITY_BUILD=ON"])
        self.assertTrue(self.calls("ninja")[0].endswith(" bin/tropilla"))
        self.cached(TROPILLA_TESTS="OFF")
        self.built("--program")
        self.assertEqual(self.calls("cmake"), [])
        self.built()
        self.assertEqual(self.calls("cmake"),
                         ["--preset release -UTROPILLA_TESTS -UTROPILLA_BENCH -UTROPILLA_EXAMPLES -UCMAKE_UNITY_BUILD"])
        self.cached(TROPILLA_TESTS="ON")
        self.built("--program")
        self.assertEqual(self.calls("cmake"), [])

    def test_configures_again_when_cuda_is_asked_for(self):
        self.built()
        self.cached(TROPILLA_CUDA="AUTO")
        self.calls("cmake")
        self.built("--cuda")
        self.assertEqual(self.calls("cmake"), ["--preset release -DTROPILLA_CUDA=ON"])
        self.cached(TROPILLA_CUDA="ON")
        self.built("--cuda")
        self.built()
        self.assertEqual(self.calls("cmake"), [])
        self.built(TROPILLA_CUDA="off")
        self.assertEqual(self.calls("cmake"), ["--preset release -DTROPILLA_CUDA=OFF"])

    def test_refuses_what_it_does_not_know(self):
        for arguments, environment, words in ((["--fast"], {}, "--fast"), (["--program", "release", "test_app"], {}, "test_app"),
                                              ([], {"TROPILLA_CUDA": "maybe"}, "ON, OFF or AUTO")):
            result = self.build(*arguments, **environment)
            self.assertEqual(result.returncode, 2)
            self.assertIn(words, result.stderr)
            self.assertEqual(self.calls("cmake"), [])


if __name__ == "__main__":
    unittest.main(verbosity=1)
