"""What the tests of the program share: a scratch folder with a small model, and ways to call the program in it."""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = None  # set by main


class Program(unittest.TestCase):
    """A scratch folder with a small model, and ways to call the program in it."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.model = cls.folder / "mini.gguf"
        cls.environment = {k: v for k, v in os.environ.items() if not k.startswith("TROPILLA_")}
        cls.environment.update(HOME=str(cls.folder), XDG_STATE_HOME=str(cls.folder / "state"), LC_ALL="C.UTF-8")
        cls.environment.pop("NO_COLOR", None)
        cls.environment.pop("XDG_CACHE_HOME", None)
        subprocess.run([program(), "synth", "--shape", "mini", "-o", cls.model, "-q"], check=True, env=cls.environment)

    def call(self, *arguments, stdin=b"", **environment):
        return subprocess.run([program(), *map(str, arguments)], input=stdin, capture_output=True, timeout=120,
                              cwd=self.folder, env={**self.environment, **environment})

    def succeed(self, *arguments, **more):
        done = self.call(*arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return done.stdout.decode()

    def as_json(self, *arguments, **more):
        return json.loads(self.succeed(*arguments, **more))

    def refuse(self, *arguments, says, **more):
        """Status 2, nothing on standard output, one sentence that says why."""
        done = self.call(*arguments, **more)
        sentence = done.stderr.decode()
        self.assertEqual(done.returncode, 2, sentence)
        self.assertEqual(done.stdout, b"")
        self.assertRegex(sentence, r"\Atropilla: [^\n]+\n\Z")
        self.assertRegex(sentence, says)


def program():
    return PROGRAM


def main():
    global PROGRAM
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin/tropilla")
    parser.add_argument("tests", nargs="*")
    options, rest = parser.parse_known_args()
    PROGRAM = str(options.bin.resolve())
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:  # by nohup, or a shell that put this into the background
            signal.signal(number, signal.SIG_DFL)
    ran = unittest.main(module="__main__", argv=[sys.argv[0], *rest, *options.tests], exit=False).result
    sys.exit(0 if ran.wasSuccessful() and ran.testsRun else 1)
