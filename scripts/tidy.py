#!/usr/bin/env python3
"""Runs clang-tidy (14; .clang-tidy says what it checks) over what changed, or over the files that are named.

    scripts/tidy.py [--base REVISION|all] [--seconds N] [FILE...]

Without files: the C++ files that differ from a base, uncommitted ones included, those with the largest changes first. The
base is --base, else the variable TROPILLA_TIDY_BASE, else where the branch left origin/main, else (on main itself) ten
commits ago. A header is checked through the sources that include it, when these are few, else through one of them. What
--seconds (240; 0: no limit) leave no time for is named at the end. `all` takes every source.

Status 0: nothing was found; 1: something was; 2: it could not be run.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("*.cpp", "*.hpp")
FEW = 4  # sources that include a header
COMMITS = 10


class Trouble(Exception):
    """A sentence about why it can't be run."""


def git(root, *arguments):
    """Its output, or None where it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode().strip() if done.returncode == 0 else None


def choose_base(root, wanted):
    """The revision to compare with, or None for everything."""
    if wanted == "all":
        return None
    if wanted:
        if git(root, "rev-parse", "--verify", "--quiet", wanted + "^{commit}") is None:
            raise Trouble(f"there is no revision {wanted} to compare with; name another by --base or TROPILLA_TIDY_BASE, "
                          "or 'all'")
        return wanted
    head = git(root, "rev-parse", "HEAD")
    fork = git(root, "merge-base", "HEAD", "origin/main")
    if fork and fork != head:
        return fork
    return git(root, "rev-parse", "--verify", "--quiet", f"HEAD~{COMMITS}")  # none in a shallow clone: everything


def changed(root, base):
    """{path: changed lines} of C++ files that exist, relative to the root."""
    lines = {}
    if base is None:
        names = git(root, "ls-files", "--", *SOURCES) or ""
        lines = {name: len((root / name).read_bytes().splitlines()) for name in names.splitlines() if (root / name).is_file()}
    else:
        for row in (git(root, "diff", "--numstat", "--no-renames", base, "--", *SOURCES) or "").splitlines():
            added, removed, name = row.split("\t")
            lines[name] = int(added) + int(removed)
    for name in (git(root, "ls-files", "--others", "--exclude-standard", "--", *SOURCES) or "").splitlines():
        lines[name] = len((root / name).read_bytes().splitlines())
    return {name: count for name, count in lines.items() if (root / name).is_file()}


class Includes:
    """Which of the tree's files a file includes."""

    def __init__(self, root):
        self.root = root
        self.known = {}

    def direct(self, name):
        if name not in self.known:
            path = self.root / name
            text = path.read_text(errors="replace") if path.is_file() else ""
            spelled = re.findall(r'(?m)^#include "([^"]+)"', text)
            self.known[name] = {s if (self.root / s).is_file() else "include/" + s for s in spelled}
        return self.known[name]

    def all(self, name):
        found, left = set(), [name]
        while left:
            new = self.direct(left.pop()) - found
            found |= new
            left += new
        return found


def sources_for(lines, known, includes):
    """The sources (of `known`) to check, those with the most changed lines first. A changed header's lines count where it
    is looked at."""
    weights = {name: count for name, count in lines.items() if name in known}
    for header, count in lines.items():
        if not header.endswith(".hpp"):
            continue
        users = sorted(name for name in known if header in includes.all(name))
        if len(users) > FEW:
            own = header.removesuffix(".hpp") + ".cpp"
            direct = [name for name in users if header in includes.direct(name)]
            users = [own] if own in users else (direct or users)[:1]
        for name in users:
            weights[name] = weights.get(name, 0) + count
    return sorted(weights, key=lambda name: (-weights[name], name))


def for_clang(command):
    """A compiler's arguments without what only GCC knows: its warnings and parameters, precompiled headers, and a launcher."""
    arguments = shlex.split(command)
    compiler = next((i for i, word in enumerate(arguments) if re.search(r"(\+\+|cc|clang)(-\d+)?$", word)
                     and not word.endswith("ccache")), 0)
    kept = []
    words = iter(arguments[compiler:])
    for word in words:
        if word == "-include":
            header = next(words, "")
            if "cmake_pch" not in header:
                kept += [word, header]
        elif word == "--param":
            next(words, "")
        elif not word.startswith("-W") and not word.startswith("-fno-sanitize") and word != "-fpch-preprocess":
            kept.append(word)
    return kept


def compile_commands(root):
    """{path: entry} of what build/release compiles, for clang; CMake describes it first where nobody has."""
    database = root / "build/release/compile_commands.json"
    if not database.is_file():
        done = subprocess.run(["cmake", "--preset", "release"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0 or not database.is_file():
            raise Trouble("CMake could not configure the preset 'release':\n" + done.stdout.decode(errors="replace"))
    entries = {}
    for entry in json.loads(database.read_text()):
        name = os.path.relpath(entry["file"], root)
        if name.endswith(".cpp") and not name.startswith(("..", "build/")):  # the first of those that compile a file
            entries.setdefault(name, {"directory": entry["directory"], "file": entry["file"],
                                      "arguments": for_clang(entry["command"])})
    if not entries:
        raise Trouble("build/release compiles several sources at once, as the first run of the program left it; "
                      "scripts/build.sh makes it compile each by itself")
    return entries


def find_clang_tidy():
    for name in ("clang-tidy-14", "clang-tidy"):
        if shutil.which(name):
            return name
    raise Trouble("there is no clang-tidy; scripts/deps.sh --test installs it")


def check(root, tool, database, names, seconds):
    """Runs the tool on one file after another, on all cores. Returns names with findings, and those left out."""
    begin = time.monotonic()
    bad, left_out = [], []

    def one(name):
        if seconds and time.monotonic() - begin > seconds:
            return None
        return subprocess.run([tool, "--quiet", "-p", str(database), str(root / name)], cwd=root,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, done in zip(names, pool.map(one, names)):
            if done is None:
                left_out.append(name)
            elif done.returncode != 0:
                bad.append(name)
                errors = "".join(line + "\n" for line in done.stderr.decode(errors="replace").splitlines()
                                 if not re.match(r"\d+ warnings? (and \d+ errors? )?(generated|treated as errors?)", line))
                print(done.stdout.decode(errors="replace") + errors, end="", flush=True)
    return bad, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 2)[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--base", metavar="REVISION", default=os.environ.get("TROPILLA_TIDY_BASE", ""))
    parser.add_argument("--seconds", type=int, default=240, help="after which no other file is begun (%(default)s)")
    options = parser.parse_args()
    tool = find_clang_tidy()
    entries = compile_commands(ROOT)
    if options.files:
        lines = {}
        for file in options.files:
            name = os.path.relpath(file, ROOT)
            if not (ROOT / name).is_file():
                raise Trouble(f"there is no file {file}")
            lines[name] = 1
        options.seconds = 0
        what = "named"
    else:
        base = choose_base(ROOT, options.base)
        lines = changed(ROOT, base)
        what = f"changed since {git(ROOT, 'rev-parse', '--short', base)}" if base else "in the tree"
    names = sources_for(lines, entries, Includes(ROOT))
    database = ROOT / "build/tidy"
    database.mkdir(parents=True, exist_ok=True)
    (database / "compile_commands.json").write_text(json.dumps(list(entries.values())))
    print(f"tropilla: clang-tidy looks at {len(names)} sources, for {len(lines)} files {what}", file=sys.stderr)
    begin = time.monotonic()
    bad, left_out = check(ROOT, tool, database, names, options.seconds)
    for name in bad:
        print(f"tropilla: clang-tidy found something in {name}", file=sys.stderr)
    if left_out:
        print(f"tropilla: after {options.seconds} s, {len(left_out)} sources were left out: {' '.join(left_out)}\n"
              "tropilla: scripts/tidy.py --seconds 0 looks at all of them", file=sys.stderr)
    print(f"tropilla: clang-tidy looked at {len(names) - len(left_out)} sources in {time.monotonic() - begin:.0f} s",
          file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(f"tropilla: {trouble}", file=sys.stderr)
        sys.exit(2)
