#!/usr/bin/env python3
"""Runs the program in containers, memory cgroups of 60 MiB to 1 GiB, without a budget and with some: nothing may be killed,
and each run ends with the text of one without limits, or with status 2 and a sentence.

    tests/faults/containers.py                            20 containers, on the model of scripts/model.sh (minutes)
    tests/faults/containers.py --count 3 --model FILE     fewer, on another model

Needs leave to make a cgroup with a memory controller (root, version 1 or 2); without that it says so and ends with status 0.
Status 1 when a run was killed, timed out, or said something else. bench/memory_group.py makes the groups.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import memory_group  # noqa: E402

MIB = 1 << 20
LEAST, MOST = 60 * MIB, 1024 * MIB
# Without a budget, with the default context and with a small one, which small containers stream; a share; as much as the
# container has, which is more than the process may use; far too much, with a prompt whose keys and values are written page
# by page.
WAYS = {"none": ["-n", 16, "Why is the sky blue?"],
        "small context": ["-n", 16, "--ctx", 128, "Why is the sky blue?"],
        "80%": ["-n", 16, "--budget", "80%", "Why is the sky blue?"],
        "container": ["-n", 16, "--budget", "SIZE", "Why is the sky blue?"],
        "long prompt": ["-n", 4, "--budget", "4GiB", "--raw", "-f", "LONG"]}


def sizes(count):
    """From the least to the most, each the same factor above the one before."""
    return [round(LEAST * (MOST / LEAST) ** (i / max(1, count - 1)) / MIB) * MIB for i in range(count)]


def verdict(run, expected):
    """What is wrong with how a run ended, and what it was; one of them is empty."""
    if run["timed_out"]:
        return "timed out", ""
    if run["status"] < 0 or run["oom_kills"]:
        return f"killed (status {run['status']}, {run['oom_kills']} by the kernel)", ""
    if run["status"] == 0:
        return ("", "text") if run["stdout"] == expected else (f"another text: {run['stdout'][:200]!r}", "")
    errors = [line for line in run["stderr"].splitlines() if line.startswith("tropilla: ")]
    if run["status"] == 2 and len(errors) == 1 and re.search(r"\d", errors[0]) and expected.startswith(run["stdout"].strip()):
        return "", errors[0]
    return f"status {run['status']}: {run['stderr'][-400:]!r}", ""


class Containers:
    def __init__(self, program, model, folder, more=(), sentences=100):
        self.program, self.model, self.more = program, model, list(more)
        self.environment = {**{k: v for k, v in os.environ.items() if not k.startswith("TROPILLA_")},
                            "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
        self.long = folder / "long.txt"
        self.long.write_text("The sky is blue, and the sea is, too. " * sentences)
        self.expected = {}

    def command(self, way, size):
        words = [{"SIZE": str(size), "LONG": self.long}.get(word, word) for word in WAYS[way]]
        return [self.program, "run", "-m", self.model, "--temp", 0, *self.more, *words]

    def unlimited(self, way):
        """The text of a run without limits, which also packs the weights."""
        if way not in self.expected:
            command = [str(c) for c in self.command(way, 4 << 30)]
            done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=600)
            if done.returncode != 0:
                raise RuntimeError(f"without limits: {done.stderr}")
            self.expected[way] = done.stdout
        return self.expected[way]

    def run(self, way, size, timeout=300.0):
        expected = self.unlimited(way)
        with memory_group.MemoryGroup(size) as group:
            run = group.run(self.command(way, size), timeout=timeout, environment=self.environment)
        run["problem"], run["ended"] = verdict(run, expected)
        return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin/tropilla")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    model = options.model or subprocess.run([ROOT / "scripts/model.sh"], check=True, capture_output=True,
                                            text=True).stdout.strip()
    problems = 0
    with tempfile.TemporaryDirectory() as folder:
        containers = Containers(options.bin.resolve(), model, pathlib.Path(folder))
        try:
            for way in WAYS:
                for size in sizes(options.count):
                    run = containers.run(way, size)
                    problems += bool(run["problem"])
                    print(f"{way:13} {size // MIB:5} MiB  peak {(run['peak_bytes'] or 0) / MIB:6.1f} MiB  "
                          f"{run['seconds']:6.1f} s  {run['problem'] or run['ended']}", flush=True)
        except memory_group.Unavailable as e:
            print(f"containers: skipped: {e}")
            return 0
    print(f"{problems} of {options.count * len(WAYS)} runs ended wrong")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
