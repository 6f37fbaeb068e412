#!/usr/bin/env python3
"""Few threads or processes: a run ends with its text, or with one sentence and status 2, whatever limits them: the
number of a user's processes, a container's, or the memory that stacks take.

    tests/app/test_threads.py [--bin build/release/bin/tropilla] [Class[.test]...]

Run by ctest (label app). What needs rights that the tests don't have is skipped.
"""
import os
import pathlib
import resource
import subprocess

from program import Program, main, program

NOBODY = 65534
PIDS = [pathlib.Path("/sys/fs/cgroup/pids"), pathlib.Path("/sys/fs/cgroup")]  # of cgroup v1 and v2


class Threads(Program):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder.chmod(0o755)
        cls.command = [program(), "run", "-m", str(cls.model), "-q", "-c", "256", "-t", "2", "-n", "8", "--temp", "0",
                       "--no-cache", "hello"]
        cls.sound = cls.limited(cls, lambda: None)
        assert cls.sound.returncode == 0, cls.sound.stderr

    def limited(self, limit):
        return subprocess.run(self.command, capture_output=True, timeout=60, cwd=self.folder, env=self.environment,
                              stdin=subprocess.DEVNULL, preexec_fn=limit)

    def check(self, ran, **what):
        """Whether it was refused."""
        with self.subTest(**what):
            self.assertIn(ran.returncode, (0, 2), ran.stderr)
            if ran.returncode == 0:
                self.assertEqual(ran.stdout, self.sound.stdout)
            else:
                self.assertEqual(ran.stdout, b"")
                self.assertRegex(ran.stderr.decode(), r"\Atropilla: [^\n]+\n\Z")
        return ran.returncode != 0

    def check_all(self, refusals):
        self.assertIn(True, refusals, "no limit was small enough to be one")
        self.assertIn(False, refusals, "no limit was large enough")

    def test_processes_of_a_user(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become a user who has no other processes")

        def limit(threads):
            resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

        try:
            self.limited(lambda: limit(1000)).check_returncode()
        except (OSError, subprocess.SubprocessError):
            self.skipTest("nobody can't run the program where it lies")
        self.check_all([self.check(self.limited(lambda n=n: limit(n)), processes=n) for n in range(1, 26)])

    def test_processes_of_a_container(self):
        home = next((p for p in PIDS if os.access(p / "cgroup.procs", os.W_OK)), None)
        if home is None:
            self.skipTest("no control group can be made here")
        group = home / f"tropilla-{os.getpid()}"
        try:
            group.mkdir()
            self.addCleanup(group.rmdir)
            (group / "pids.max").write_text("100")
        except OSError as e:
            self.skipTest(f"no control group of processes can be made here: {e}")
        refusals = []
        for n in range(1, 26):
            (group / "pids.max").write_text(str(n))
            ran = self.limited(lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
            refusals.append(self.check(ran, processes=n))
        self.check_all(refusals)

    def test_memory_for_stacks(self):
        # Every thread takes 8 MiB of addresses for its stack, and up to 128 for a heap of its own where there are so many.
        refusals = []
        for mib in range(30, 400, 10):
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
                ran = self.limited(lambda mib=mib, kind=kind: resource.setrlimit(kind, (mib << 20, mib << 20)))
                if ran.returncode == 127:  # not even the libraries find room
                    continue
                refusals.append(self.check(ran, mib=mib, kind=kind))
        self.check_all(refusals)


if __name__ == "__main__":
    main()
