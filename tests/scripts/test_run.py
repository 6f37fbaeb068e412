#!/usr/bin/env python3
"""scripts/run.sh: what it asks of the other scripts and of the program, and what it says when the model can't be obtained.

The script under test is the real one, in a folder of its own, with others in place of those that it calls. Run by ctest
(label scripts), or by hand: tests/scripts/test_run.py
"""
import itertools
import pathlib
import shutil
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
PROGRAM = "#!/bin/sh\nprintf '%s|' \"$@\"\n"


class RunScript(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "scripts").mkdir()
        for name in ("run.sh", "common.sh"):
            shutil.copy(SCRIPTS / name, self.root / "scripts")
        self.write("scripts/deps.sh", '#!/bin/sh\necho "deps $*" >&2\n')
        self.write("scripts/build.sh", '#!/bin/sh\necho "build $*" >&2\n')
        self.write("scripts/model.sh", '#!/bin/sh\necho "model said this" >&2\necho /models/one.gguf\n')

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def run_script(self, *arguments):
        return subprocess.run(["bash", self.root / "scripts/run.sh", *arguments], capture_output=True, text=True, timeout=60)

    def test_asks_for_the_program_alone_and_says_first_what_the_first_run_does(self):
        self.write("scripts/build.sh", '#!/bin/sh\necho "build $*" >&2\nmkdir -p build/release/bin\n')
        lines = self.run_script().stderr.splitlines()
        self.assertRegex(lines[0], "^tropilla: the first run installs .*: a few minutes$")
        self.assertEqual(lines[1:3], ["deps --program", "build --no-deps --program"])

    def test_asks_the_question_that_it_was_given_or_its_own(self):
        self.write("build/release/bin/tropilla", PROGRAM)
        for arguments, asked in (([], "-p|Give me three tips for a good night's sleep.|"), (["Why?", "-n", "3"], "-p|Why?|-n|3|"),
                                 (["-p", "Who?"], "-p|Who?|"), (["-f", "file"], "-f|file|")):
            result = self.run_script(*arguments)
            self.assertEqual((result.returncode, result.stdout), (0, f"run|-m|/models/one.gguf|{asked}"), result.stderr)

    def test_says_why_the_model_is_not_there_after_what_the_build_says(self):
        self.write("build/release/bin/tropilla", PROGRAM)
        self.write("scripts/model.sh", '#!/bin/sh\necho "tropilla: pip could not download it" >&2\nexit 2\n')
        result = self.run_script()
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        lines = [line for line, _ in itertools.groupby(result.stderr.splitlines())]  # it may have been progress before
        self.assertEqual(lines[-2:], ["build --no-deps --program", "tropilla: pip could not download it"])


if __name__ == "__main__":
    unittest.main(verbosity=1)
