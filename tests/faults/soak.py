#!/usr/bin/env python3
"""Faults at random for a while: the tests of faults, one after another in random order, each with a seed of its own.

    tests/faults/soak.py [--tree build/release] [--seconds 3600] [--seed N]

Prints a line per run, and at the end how often each ran. Status 1 when one failed: its output is shown, and the seed with
which it fails again (TROPILLA_TEST_SEED). Memory, descriptors and threads of single processes are looked at by the tests
themselves.
"""
import argparse
import collections
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What runs for at most some minutes: programs of tests/app, and tests of the actors by their names.
PROGRAMS = ["damaged", "limits", "memory", "memory_limits", "refused", "threads"]
ACTORS = ["a member of the cast is killed*", "budgets that change*", "no text comes*", "a read that fails*"]


def commands(tree):
    program = tree / "bin/tropilla"
    for name in PROGRAMS:
        yield name, [sys.executable, str(ROOT / f"tests/app/test_{name}.py"), "--bin", str(program)]
    for name in ACTORS:
        yield name, [str(tree / "bin/test_actors"), name]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT / "build/release")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    options = parser.parse_args()
    chance = random.Random(options.seed)
    print(f"seed {options.seed}")
    end = time.monotonic() + options.seconds
    ran, failed = collections.Counter(), collections.Counter()
    known = list(commands(options.tree.resolve()))
    while time.monotonic() < end:
        name, command = chance.choice(known)
        seed = str(chance.randrange(2**31))
        began = time.monotonic()
        done = subprocess.run(command, env={**os.environ, "TROPILLA_TEST_SEED": seed}, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=3600, check=False)
        ran[name] += 1
        print(f"{name}: seed {seed}, status {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode != 0:
            failed[name] += 1
            print(done.stdout.decode(errors="replace"), flush=True)
    for name, _ in known:
        print(f"{name}: ran {ran[name]} times, failed {failed[name]} times")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
