#!/usr/bin/env python3
"""Memory that the process may use: shares of it, budgets above it, limits of the address space, and containers.

    tests/app/test_memory_limits.py [--bin build/release/bin/tropilla] [Class[.test]...]

Containers need root and a memory controller, and are skipped otherwise; tests/faults/containers.py runs more of them, on a
real model. Run by ctest (label app).
"""
import json
import pathlib
import resource
import subprocess
import sys

from program import Program, main, program

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "faults"))

import containers  # noqa: E402
import memory_group  # noqa: E402

MIB = 1 << 20


class MemoryLimits(Program):
    ask = ("run", "-q", "--ctx", 256, "-n", 4, "--temp", 0)

    def plan(self, *more):
        return self.as_json("plan", "-m", self.model, "--ctx", 256, "--json", "--no-measure", *more)

    def limited(self, limits, *arguments):
        """The program under limits of bytes, by the names of `resource`."""
        def enter():
            for name, size in limits.items():
                resource.setrlimit(getattr(resource, name), (size, resource.RLIM_INFINITY))
        return subprocess.run([program(), *map(str, arguments)], capture_output=True, timeout=120, cwd=self.folder,
                              env=self.environment, preexec_fn=enter, text=True)

    def test_a_plan_and_the_devices_say_what_limits_them(self):
        device = self.plan()["devices"][0]
        self.assertGreater(device["limit_bytes"], 0)
        self.assertRegex(device["limit_set_by"], "available|control group|ulimit")
        text = self.succeed("plan", "-m", self.model, "--ctx", 256)
        self.assertRegex(text, r"(?m)^Of the host, [\d.]+ [KMGT]iB may be used, set by the ")
        self.assertRegex(self.succeed("devices"), r"(?m)^host:0 may use [\d.]+ [KMGT]iB, set by the ")
        host = self.as_json("devices", "--json")["devices"][0]
        self.assertGreater(host["limit_bytes"], 0)
        self.assertTrue(host["limit_set_by"])

    def test_a_budget_can_be_a_share(self):
        whole = self.succeed(*self.ask, "-m", self.model, "hi")
        self.assertEqual(self.succeed(*self.ask, "-m", self.model, "--budget", "50%", "hi"), whole)
        for share in ("50%", "12.5%"):
            plan = self.plan("--budget", share)
            self.assertAlmostEqual(plan["budget_bytes"], plan["devices"][0]["limit_bytes"] * float(share[:-1]) / 100,
                                   delta=2)
        two = self.plan("--budget", "host:0=10%,host:1=20%")["devices"]
        self.assertAlmostEqual(two[1]["budget_bytes"], 2 * two[0]["budget_bytes"], delta=4)
        (self.folder / "share.toml").write_text('budget = "25%"\n')
        plan = self.plan("--config", self.folder / "share.toml")
        self.assertAlmostEqual(plan["budget_bytes"], plan["devices"][0]["limit_bytes"] / 4, delta=2)
        for share in ("0%", "101%", "80 %", "%", "-5%", "host:0=0%", "host:0=10%,host:1=200%", "10%%"):
            self.refuse(*self.ask, "-m", self.model, "--budget", share, "hi", says="a share like 80%")

    def test_the_console_takes_shares(self):
        plan = self.plan()
        share = (plan["total_bytes"] + MIB) / plan["devices"][0]["limit_bytes"] * 100
        done = self.call("chat", "-m", self.model, "-q", "--ctx", 256, stdin=f"/budget {share:.9f}%\n".encode())
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), r"host:0: budget [\d.]+ MiB")
        self.refuse("chat", "-m", self.model, "-q", stdin=b"/budget 0%\n", says="write it like 80%")

    def test_a_budget_above_the_limit_is_a_note_with_both_numbers(self):
        done = self.call("run", "-m", self.model, "--ctx", 256, "-n", 4, "--budget", "1TiB", "hi")
        self.assertEqual(done.returncode, 0, done.stderr)
        says = r"(?m)^note: the budget of 1\.0 TiB is more than the [\d.]+ [KMG]iB that may be used, set by the "
        self.assertRegex(done.stderr.decode(), says)
        self.assertRegex(self.call("plan", "-m", self.model, "--budget", "1TiB").stderr.decode(), says)

    def test_numbers_beyond_all_memory_are_refused_before_anything_is_counted(self):
        empty = self.folder / "requests.jsonl"
        empty.write_text('{"prompt": "hi"}\n')
        commands = {"run": ["hi"], "batch": [empty], "bench": ["-r", 1], "plan": ["--no-measure"], "chat": []}
        for command, words in commands.items():
            for more in (["--kv", 2147483647], ["--kv", 2147483647, "--parallel", 1024],
                         ["--kv", 2147483647, "--budget", "100TiB"]):
                with self.subTest(command=command, more=more):
                    done = self.limited({"RLIMIT_CPU": 5}, command, "-m", self.model, "-q", *more, *words)
                    self.assertEqual(done.returncode, 2, done.stderr)
                    self.assertRegex(done.stderr, r"tropilla: [^\n]*\d [KMGT]iB[^\n]*\d [KMGT]iB[^\n]*KV pages")

    def test_a_limited_address_space_is_kept_to(self):
        expected = self.succeed(*self.ask, "-m", self.model, "hi")
        texts = 0
        for name in ("RLIMIT_AS", "RLIMIT_DATA"):
            for size in (150, 200, 240, 280, 320, 400, 600, 1000):
                with self.subTest(limit=name, mib=size):
                    done = self.limited({name: size * MIB}, *self.ask, "-m", self.model, "hi")
                    texts += done.returncode == 0
                    if done.returncode == 0:
                        self.assertEqual(done.stdout, expected)
                    else:
                        self.assertEqual(done.returncode, 2, done.stderr)
                        self.assertRegex(done.stderr, r"\Atropilla: [^\n]+\n\Z")
        self.assertGreater(texts, 4)

    def test_what_does_not_fit_the_address_space_streams_and_says_why(self):
        whole = self.plan()["total_bytes"]
        smallest = json.loads(self.call("plan", "-m", self.model, "--ctx", 256, "--json", "--budget", "1KiB").stdout)
        expected = self.succeed(*self.ask, "-m", self.model, "hi")
        plan = ("plan", "-m", self.model, "--ctx", 256, "--json", "--no-measure")
        size = 400 * MIB
        left = json.loads(self.limited({"RLIMIT_AS": size}, *plan).stdout)["devices"][0]["limit_bytes"]
        size -= (left - (whole + smallest["total_bytes"]) // 2) * 9 // 8  # the pool has a ninth for itself
        done = self.limited({"RLIMIT_AS": size}, "run", *self.ask[2:], "-m", self.model, "hi")
        self.assertEqual((done.returncode, done.stdout), (0, expected), done.stderr)
        self.assertRegex(done.stderr, r"(?m)^note: host:0 may use [\d.]+ MiB, set by the limit of [\d.]+ MiB for address space "
                                      r"\(ulimit -v\), and everything would take [\d.]+ MiB: [\d.]+ [KM]iB of weights are "
                                      "streamed for every step$")


class Containers(Program):
    def test_nothing_is_killed_in_a_container(self):
        try:
            memory_group.parent_of_groups()
            inside = containers.Containers(program(), self.model, self.folder, ["--ctx", 1024], 20)
            for way in containers.WAYS:
                for size in (16 * MIB, 48 * MIB, *containers.sizes(3)):
                    with self.subTest(way=way, mib=size // MIB):
                        run = inside.run(way, size, timeout=100)
                        self.assertEqual(run["problem"], "", run["stderr"])
        except memory_group.Unavailable as e:
            self.skipTest(str(e))

    def test_a_killed_run_would_be_told(self):
        run = {"timed_out": False, "status": 0, "oom_kills": 0, "stdout": "a\n", "stderr": ""}
        self.assertEqual(containers.verdict(run, "a\n"), ("", "text"))
        self.assertIn("another text", containers.verdict(run, "b\n")[0])
        self.assertIn("killed", containers.verdict({**run, "status": -9}, "a\n")[0])
        self.assertIn("killed", containers.verdict({**run, "oom_kills": 1}, "a\n")[0])
        self.assertIn("status 2", containers.verdict({**run, "status": 2, "stdout": ""}, "a\n")[0])
        refused = {**run, "status": 2, "stdout": "", "stderr": "note: x\ntropilla: needs 5 MiB\n"}
        self.assertEqual(containers.verdict(refused, "a\n"), ("", "tropilla: needs 5 MiB"))


if __name__ == "__main__":
    main()
