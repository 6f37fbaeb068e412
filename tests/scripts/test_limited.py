#!/usr/bin/env python3
"""bench/compare_limited.py: its arithmetic, where it looks for cgroups, what it does without them, and that it leaves
neither groups nor processes behind.

    tests/scripts/test_limited.py [--bin build/release/bin/tropilla] [Class[.test]...]

Groups need root and a memory controller; the whole comparison on a small model needs the program and an environment with
xllamacpp, named by TROPILLA_PEER_VENV, too. What is absent is skipped. Run by ctest (label scripts).
"""
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
SCRIPT = ROOT / "bench/compare_limited.py"
sys.dont_write_bytecode = True
sys.path.insert(0, str(SCRIPT.parent))

import compare_limited  # noqa: E402
import memory_group  # noqa: E402

PROGRAM = None  # set by main
MIB = 1 << 20
MOUNTS_1 = "30 20 0:25 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
MOUNTS_2 = "31 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


class Arithmetic(unittest.TestCase):
    def rounds(self, *pairs):
        """Rounds of (our decode, the peer's), None where a run failed."""
        return [{"ours": {"decode": ours}, "peer": {"decode": peer}, "disk_b_s": [1.5e9, 2.5e9]} for ours, peer in pairs]

    def test_a_ratio_is_the_median_of_the_rounds_ratios(self):
        row = compare_limited.summarise("decode", self.rounds((2, 1), (6, 2), (2, 4)), 10**9, goals=True)
        self.assertEqual(row["ratio"], {"median": 2.0, "least": 0.5, "greatest": 3.0})
        self.assertTrue(row["ratio_met"])

    def test_the_limit_is_the_mean_bandwidth_over_the_streamed_bytes(self):
        row = compare_limited.summarise("decode", self.rounds((1.8, 1)), 10**9, goals=True)
        self.assertAlmostEqual(row["ours_of_limit"]["median"], 0.9)
        self.assertFalse(row["limit_met"])

    def test_what_failed_has_no_figures_and_meets_no_goal(self):
        row = compare_limited.summarise("decode", self.rounds((None, 1)), 10**9, goals=True)
        self.assertIsNone(row["ratio"])
        self.assertIsNone(row["ours_of_limit"])
        self.assertFalse(row["ratio_met"] or row["limit_met"])

    def test_nothing_is_a_share_of_no_streaming(self):
        self.assertIsNone(compare_limited.summarise("decode", self.rounds((2, 1)), 0, goals=False)["ours_of_limit"])

    def test_a_budget_leaves_room_for_the_process(self):
        options = compare_limited.parse_arguments(["--limit", "420MiB", "--tropilla-args=--io direct"])
        self.assertEqual((options.limit, options.budget), (420 * MIB, 372 * MIB))
        self.assertEqual(options.tropilla_args, ["--io", "direct"])
        self.assertGreaterEqual(options.context, options.prefill + options.decode)

    def test_sizes_are_read_as_the_program_reads_them(self):
        for text, size in (("420MiB", 420 * MIB), ("1.5G", 3 << 29), ("64 kb", 64 << 10), ("1000", 1000)):
            self.assertEqual(compare_limited.parse_bytes(text), size)
        for text in ("", "MiB", "-1M", "1T"):
            self.assertRaises(argparse.ArgumentTypeError, compare_limited.parse_bytes, text)

    def test_a_killed_run_is_told_from_one_that_took_too_long(self):
        options = compare_limited.parse_arguments([])
        run = {"timed_out": False, "status": 0, "oom_kills": 0, "stderr": ""}
        self.assertEqual(compare_limited.outcome(run, options), "")
        self.assertIn("kernel", compare_limited.outcome({**run, "status": -9, "oom_kills": 1}, options))
        self.assertIn("600 s", compare_limited.outcome({**run, "status": -9, "timed_out": True}, options))
        self.assertIn("status 2: no", compare_limited.outcome({**run, "status": 2, "stderr": "yes\nno\n"}, options))

    def test_a_cell_shows_how_far_apart_the_rounds_were(self):
        cell = compare_limited.cell
        self.assertEqual(cell({"median": 2.0, "least": 1.0, "greatest": 3.0}, "{:.1f}", unit="x"), "2.0x (1.0 to 3.0)")
        self.assertEqual(cell({"median": 2.0, "least": 2.0, "greatest": 2.0}, "{:.1f}"), "2.0")
        self.assertEqual(cell(None, "{:.1f}"), "–")


class Groups(unittest.TestCase):
    def group(self, limit):
        try:
            compare_limited.probe()
        except memory_group.Unavailable as e:
            self.skipTest(str(e))
        group = memory_group.MemoryGroup(limit)
        self.addCleanup(group.remove)
        return group

    def test_ours_is_found_in_both_versions(self):
        locate = memory_group.locate
        self.assertEqual(locate("4:memory:/a/b\n0::/\n", MOUNTS_2 + MOUNTS_1),
                         (1, pathlib.Path("/sys/fs/cgroup/memory/a/b")))
        self.assertEqual(locate("0::/user.slice\n", MOUNTS_2), (2, pathlib.Path("/sys/fs/cgroup/user.slice")))

    def test_a_container_sees_a_part_of_the_tree(self):
        mounts = MOUNTS_1.replace(" / ", " /docker/1 ", 1)
        self.assertEqual(memory_group.locate("4:memory:/docker/1/x\n", mounts)[1],
                         pathlib.Path("/sys/fs/cgroup/memory/x"))
        self.assertEqual(memory_group.locate("4:memory:/docker/12\n", mounts)[1],
                         pathlib.Path("/sys/fs/cgroup/memory"))

    def test_without_a_memory_controller_there_is_no_group(self):
        with self.assertRaisesRegex(memory_group.Unavailable, "no cgroup file system"):
            memory_group.locate("3:cpu:/\n", MOUNTS_2)

    def test_what_needs_more_than_the_limit_is_killed_and_what_does_not_is_not(self):
        limit = 48 * MIB
        take = "x = bytearray({}); print(len(x))"
        run = self.group(limit).run([sys.executable, "-c", take.format(8 * MIB)])
        self.assertEqual((run["status"], run["oom_kills"], run["stdout"].strip()), (0, 0, str(8 * MIB)))
        self.assertLess(8 * MIB, run["peak_bytes"])
        run = self.group(limit).run([sys.executable, "-c", take.format(200 * MIB)])
        self.assertEqual((run["status"], run["oom_kills"]), (-signal.SIGKILL, 1))
        self.assertLessEqual(run["peak_bytes"], limit)

    def test_a_run_that_takes_too_long_ends_with_all_that_it_started(self):
        group = self.group(48 * MIB)
        self.assertTrue(group.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout=0.2)["timed_out"])
        group.remove()  # which a process in it would not allow
        self.assertFalse(group.folder.exists())

    def test_an_interrupted_run_leaves_neither_a_process_nor_a_group(self):
        self.group(48 * MIB)
        for number in (signal.SIGINT, signal.SIGTERM):
            program = ("import compare_limited, memory_group, signal, sys\n"
                       # Where this test runs in the background, SIGINT is ignored by inheritance.
                       "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
                       "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
                       f"with memory_group.MemoryGroup({48 * MIB}) as group:\n"
                       "    print(group.folder, flush=True)\n"
                       "    group.run(['sh', '-c', 'sleep 1000 & sleep 1000'])\n")
            with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True, cwd=SCRIPT.parent) as runner:
                folder = pathlib.Path(runner.stdout.readline().strip())
                while len((folder / "cgroup.procs").read_text().split()) < 3:
                    self.assertIsNone(runner.poll())
                runner.send_signal(number)
                runner.wait(timeout=60)
            self.assertFalse(folder.exists())


class Comparison(unittest.TestCase):
    def test_it_skips_with_a_reason_where_no_group_can_be_made(self):
        if os.geteuid() == 0:
            # Not another user's rights but another place: no cgroups are mounted in it.
            command = ["unshare", "-m", "sh", "-c", 'umount -l -R /sys/fs/cgroup && exec "$@"', "sh"]
            if subprocess.run([*command, "true"], capture_output=True).returncode != 0:
                self.skipTest("cannot hide the cgroups here")
        else:
            command = []
            try:
                compare_limited.probe()
                self.skipTest("this user may make cgroups")
            except memory_group.Unavailable:
                pass
        done = subprocess.run([*command, sys.executable, SCRIPT, "--smoke"], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        self.assertRegex(done.stderr, r"\Acompare_limited: skipped, nothing was measured: [^\n]+\n\Z")

    def test_the_whole_on_a_small_model(self):
        environment = os.environ.get("TROPILLA_PEER_VENV")
        if not environment or not PROGRAM:
            self.skipTest("needs --bin, and TROPILLA_PEER_VENV: a folder of an environment that has xllamacpp")
        with tempfile.TemporaryDirectory() as folder:
            report = pathlib.Path(folder) / "report.json"
            done = subprocess.run([sys.executable, SCRIPT, "--smoke", "--bin", PROGRAM, "--venv", environment, "--json",
                                   report], capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            if "skipped" in done.stderr:
                self.skipTest(done.stderr.strip())
            found = json.loads(report.read_text())
        self.assertGreater(found["streamed_bytes"], 0)
        for test in ("prefill", "decode"):
            self.assertGreater(found["rows"][test]["ratio"]["median"], 0)
            self.assertIn({"prefill": "| pp32 |", "decode": "| tg4 |"}[test], done.stdout)
        for side in found["memory"].values():
            self.assertEqual((side["killed"], side["outcomes"]), (0, []))


def main():
    global PROGRAM
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path)
    options, rest = parser.parse_known_args()
    PROGRAM = options.bin and options.bin.resolve()
    unittest.main(argv=[sys.argv[0], *rest], verbosity=1)


if __name__ == "__main__":
    main()
