#!/usr/bin/env python3
"""Do the tests notice when the code is wrong? Changes one place at a time, and runs the tests that link it.

    pip install libclang==14.0.6       # of the same version as `clang --version`
    scripts/build.sh                   # the tests, whole
    tests/mutation/mutate.py --count 200 --seed 1
    tests/mutation/mutate.py --again   # what survived, once more, after tests were added
    tests/mutation/mutate.py --equivalent 17 'the loop ends before it, at the same size'
    tests/mutation/mutate.py --report  # score by area, and what survived as diffs

The sources are never touched: a changed copy is compiled with the build's own command, and linked before the libraries that
have the original. So nothing has to be restored, and an interrupted run goes on where it stopped. What does not compile is
not counted, and another mutation is drawn.
"""
import argparse
import collections
import difflib
import fcntl
import fnmatch
import functools
import json
import os
import pathlib
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

try:
    import mutations
except ImportError:  # libclang is not there, which reports do not need
    mutations = None

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = ("memory/*", "kernels/*.?pp", "kernels/host/*", "src/model/*", "src/files/*", "src/io/*", "src/schedule/*", "src/sampling/*", "src/batch/*",
        "src/trace/*", "src/placement/*")
TESTS = ("memory", "sampling", "batch", "io", "model", "formats", "schedule", "placement", "trace", "kernels")
# The tests that are about the code in a folder, which go before the others.
NEAREST = {"memory": ["memory"], "kernels": ["kernels"], "src/sampling": ["sampling"], "src/batch": ["batch"],
           "src/model": ["model", "formats"], "src/io": ["io"], "src/schedule": ["schedule"], "src/trace": ["trace"],
           "src/placement": ["placement"]}
MEMORY = 4 << 30  # bytes: a mutant may ask for more than the machine has
FILE_SIZE = 1 << 30
CORES = os.cpu_count() or 1
LONGEST_COMPILATION = 600  # seconds


def area_of(file):
    return str(pathlib.Path(file).parent).replace("kernels/host", "kernels")


def stop(sentence):
    print(f"mutate.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def resident(pid):
    """The bytes of memory that a process has."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def run(command, seconds, cwd, environment=None):
    """(status, output); status is None when it took longer, or more memory, and then nothing that it started is left."""
    def limits():
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, resource.RLIM_INFINITY))  # tests set it, too
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) * CORES, int(seconds) * CORES))

    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=limits)
        status, end = None, time.monotonic() + seconds
        try:
            while status is None and time.monotonic() < end and resident(process.pid) < MEMORY:
                try:
                    status = process.wait(min(0.2, seconds))
                except subprocess.TimeoutExpired:
                    pass
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


class build_tree:
    """What a CMake build knows: how to compile each source, how to link each test, which objects a header goes into."""

    def __init__(self, folder):
        self.folder = folder
        if not (folder / "build.ninja").exists():
            stop(f"{folder} is no build; run scripts/build.sh first")
        entries = json.loads((folder / "compile_commands.json").read_text())
        self.commands, self.sources = {}, {}
        for e in entries:
            words = shlex.split(e["command"])
            del words[:next(i for i, w in enumerate(words) if re.search(r"(\+\+|g?cc|clang)(-\d+)?$", w) and
                            not w.endswith("ccache"))]
            at = words.index("-o")
            target = words[at + 1]
            words = [w for i, w in enumerate(words) if i not in (at, at + 1) and w not in ("-c", e["file"])]
            self.commands[target] = words
            self.sources[target] = pathlib.Path(e["file"])
        self.links, self.using = {}, collections.defaultdict(list)

    def bring_up_to_date(self, tests):
        subprocess.run(["ninja", "-C", self.folder, *(f"test_{t}" for t in tests)], check=True)
        for t in tests:
            line = subprocess.run(["ninja", "-C", self.folder, "-t", "commands", "-s", f"bin/test_{t}"], check=True, text=True,
                                  stdout=subprocess.PIPE).stdout.splitlines()[-1]
            words = shlex.split(line.split("&&")[1])
            self.links[t] = words
        target = None
        for line in subprocess.run(["ninja", "-C", self.folder, "-t", "deps"], check=True, text=True,
                                   stdout=subprocess.PIPE).stdout.splitlines():
            if line and not line.startswith(" "):
                target = line.split(":")[0]
            elif line.strip().endswith(".hpp"):
                self.using[(self.folder / line.strip()).resolve()].append(target)

    def objects_of(self, path):
        """The objects that a change of `path` goes into."""
        direct = [o for o, s in self.sources.items() if s == path]
        return direct or sorted(self.using.get(path, []))

    @functools.cache
    def members(self, test):
        """The objects that a test's executable may take, its own and its libraries'."""
        if test not in self.links:
            return set()
        found = {w for w in self.links[test] if w.endswith(".o")}
        for archive in (w for w in self.links[test] if w.endswith(".a") and not w.startswith("/")):
            inputs = subprocess.run(["ninja", "-C", self.folder, "-t", "query", archive], check=True, text=True,
                                    stdout=subprocess.PIPE).stdout
            found |= {l.strip().lstrip("| ") for l in inputs.splitlines() if l.strip().endswith(".o")}
        return found


class mutant:
    """One changed place, compiled and linked beside the build."""

    def __init__(self, tree, file, change, folder):
        self.tree, self.file, self.folder = tree, file, folder
        self.path = ROOT / file
        shutil.rmtree(folder, ignore_errors=True)
        self.overlay = folder / "overlay" / file
        self.overlay.parent.mkdir(parents=True)
        text = change.applied_to(mutations.read_source(self.path))
        self.overlay.write_bytes(text.encode("latin-1"))
        self.compiled = {}

    def link(self, test):
        """The executable, or None where it does not compile or link; False where the test does not use the code."""
        affected = [o for o in self.tree.objects_of(self.path) if o in self.tree.members(test)]
        if not affected:
            return False
        for object in affected:
            if object in self.compiled:
                continue
            own = self.tree.sources[object] == self.path
            output = self.folder / f"{len(self.compiled)}.o"
            # The folder of changed headers goes first; "tropilla/..." is looked up below include/.
            first = f"-I{self.folder / 'overlay'}"
            words = self.tree.commands[object]
            words = [words[0], first, *words[1:], "-O1", "-w", "-c",
                     str(self.overlay if own else self.tree.sources[object]), "-o", str(output)]
            status, _ = run(words, LONGEST_COMPILATION, self.tree.folder)
            if status != 0:
                return None
            self.compiled[object] = output
        executable = self.folder / f"test_{test}"
        words = list(self.tree.links[test])
        at = words.index("-o")
        words[at + 1] = str(executable)
        extra = []
        for object in affected:
            if object in words:
                words[words.index(object)] = str(self.compiled[object])
            else:
                extra.append(str(self.compiled[object]))
        words[at:at] = [*extra, *(["-fuse-ld=lld"] if shutil.which("ld.lld") else [])]
        status, output = run(words, LONGEST_COMPILATION, self.tree.folder)
        if status != 0:
            return None
        return executable

    def same_code(self):
        """Whether the optimised objects are those of the original. Not for headers that go into many."""
        if len(self.compiled) > 3:
            return False
        for object in self.compiled:
            source, built = self.tree.sources[object], []
            for overlay in (self.folder / "overlay", ROOT):
                output = self.folder / "compared.o"
                words = self.tree.commands[object]
                place = overlay / source.relative_to(ROOT)
                words = [words[0], f"-I{overlay}", *words[1:], "-O2", "-g0", "-w", "-c",
                         str(place if place.exists() else source), "-o", str(output)]
                if run(words, LONGEST_COMPILATION, self.tree.folder)[0] != 0:
                    return False
                subprocess.run(["objcopy", "--strip-all", "--remove-section=.comment", str(output)], check=True)
                built.append(output.read_bytes())
            if built[0] != built[1]:
                return False
        return True


class session:
    """A run's folder: what it was over, and a line of JSON for each mutation that was tried."""

    def __init__(self, options):
        self.options = options
        self.folder = options.dir
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results_file = self.folder / "results.jsonl"
        self.results = {}
        if self.results_file.exists():
            for line in self.results_file.read_text().splitlines():
                entry = json.loads(line)
                self.results[entry["id"]] = {**self.results.get(entry["id"], {}), **entry}

    def lock(self):
        self.lock_file = open(self.folder / "lock", "w")
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stop(f"another run is at work in {self.folder}; give another --dir")

    def record(self, entry):
        self.results[entry["id"]] = {**self.results.get(entry["id"], {}), **entry}
        with open(self.results_file, "a") as out:
            out.write(json.dumps(entry) + "\n")

    def counted(self):
        return [r for r in self.results.values() if r["end"] != "did not compile"]

    def prepare(self):
        self.tree = build_tree(self.options.build)
        self.tree.bring_up_to_date(self.options.tests)
        self.usual = {t: self.usual_seconds(t) for t in self.options.tests}

    def environment(self):
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return {**os.environ, "TMPDIR": str(temporary)}

    def usual_seconds(self, test):
        start = time.monotonic()
        status, output = self.run_test(test, self.options.build / "bin" / f"test_{test}", 1800)
        if status != 0:
            stop(f"test_{test} fails already, without a mutation:\n{output[-2000:]}")
        return time.monotonic() - start

    def run_test(self, test, executable, seconds):
        order = ["--abort", "--order", "rand", "--rng-seed", str(self.options.seed), *self.options.specs]
        return run([str(executable), *order], seconds, self.options.build / "tests", self.environment())

    def try_out(self, number, file, change):
        """Compiles, runs, and records how it ended."""
        entry = {"id": number, "file": file, "kind": change.kind, "offset": change.offset, "old": change.old, "new": change.new,
                 "diff": diff_of(file, change), "end": "survived", "by": ""}
        start = time.monotonic()
        tried = mutant(self.tree, file, change, self.folder / "mutant")
        nearest = NEAREST.get(area_of(file), [])
        wanted = [t for t in self.options.tests if t in nearest or not self.options.nearest]
        ordered = sorted(wanted, key=lambda t: (nearest.index(t) if t in nearest else 9, self.usual[t]))
        ran = 0
        for test in ordered:
            executable = tried.link(test)
            if executable is None:
                entry["end"] = "did not compile"
                break
            if executable is False:
                continue
            ran += 1
            status, output = self.run_test(test, executable, self.options.patience + 10 * self.usual[test])
            executable.unlink()
            if status != 0:
                where = re.search(r"([\w/]+\.[ch]pp):\d+: FAILED", output)
                entry["end"] = "killed" if status is not None else "killed by timeout"
                entry["by"] = f"{test}: {where.group(1).split('tests/')[-1] if where else f'status {status}'}"
                break
        if entry["end"] == "survived" and not ran:
            entry["end"] = "did not compile"  # nobody links it: a header without users here
        elif entry["end"] == "survived" and not self.options.nearest and tried.same_code():
            entry.update({"end": "equivalent", "reason": "the same machine code"})
        entry["seconds"] = round(time.monotonic() - start, 1)
        self.record(entry)
        score = collections.Counter(r["end"] for r in self.results.values())
        print(f"{len(self.counted())}: {file}: {change.kind}: {entry['end']} {entry['by']} ({entry['seconds']} s) "
              f"{dict(score)}", flush=True)


def diff_of(file, change):
    text = mutations.read_source(ROOT / file)
    lines = [t.encode("latin-1").decode(errors="replace").splitlines(keepends=True)
             for t in (text, change.applied_to(text))]
    return "".join(difflib.unified_diff(*lines, f"a/{file}", f"b/{file}", n=1))


class lottery:
    """Draws mutations: a file by its size, a kind of mutation, and a place. The same seed draws the same."""

    def __init__(self, options, tree):
        self.tree, self.random, self.offered, self.drawn = tree, random.Random(options.seed), {}, set()
        self.widest = options.widest
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout
        self.files = [n for n in names.split("\0") if n.endswith((".cpp", ".hpp")) and
                      any(fnmatch.fnmatch(n, p) for p in options.files)]
        if not self.files:
            stop(f"no source matches {' '.join(options.files)}")
        self.weights = [sum(not l.lstrip().startswith("//") for l in (ROOT / n).read_text().splitlines()) for n in self.files]

    def mutations(self, file):
        if file not in self.offered:
            objects = self.tree.objects_of(ROOT / file)
            self.offered[file] = {}
            if 0 < len(objects) <= self.widest:
                unit = min((self.tree.sources[o] for o in objects), key=lambda s: ("tests" in s.parts, len(s.parts), s))
                command = next(self.tree.commands[o] for o in objects if self.tree.sources[o] == unit)
                words = [w for w in command[1:] if w not in ("-Werror", "-Winvalid-pch", "-include") and "cmake_pch" not in w]
                try:
                    self.offered[file] = mutations.mutations_of(ROOT / file, ROOT, unit, words)
                except ValueError as e:
                    print(f"{file} is left out: {e}", flush=True)
        return self.offered[file]

    def draw(self):
        for _ in range(10000):
            file = self.random.choices(self.files, self.weights)[0]
            offered = self.mutations(file)
            if offered:
                change = self.random.choice(offered[self.random.choice(list(offered))])
                if (file, change) not in self.drawn:
                    self.drawn.add((file, change))
                    return file, change
        stop("there are no more mutations to draw")


def report(run_session):
    results = run_session.results.values()
    by_area = collections.defaultdict(collections.Counter)
    for r in results:
        for area in (area_of(r["file"]), "all"):
            by_area[area][r["end"].replace("killed by timeout", "killed")] += 1
    for r in sorted(results, key=lambda r: r["id"]):
        if r["end"] in ("survived", "equivalent"):
            print(f"{r['id']}: {r['end']}: {r['kind']} {r.get('reason', '')}\n{r['diff']}")
    print(f"{'':14} killed  survived  equivalent  score")
    for area, c in sorted(by_area.items(), key=lambda e: (e[0] == "all", e[0])):
        judged = c["killed"] + c["survived"]
        score = f"{100 * c['killed'] / judged:.0f}%" if judged else ""
        print(f"{area:14} {c['killed']:6} {c['survived']:9} {c['equivalent']:11} {score:>6}")
    print(f"{sum(r['end'] == 'did not compile' for r in results)} more did not compile; "
          f"{sum(r['end'] == 'killed by timeout' for r in results)} of the killed hung")


def again(run_session):
    run_session.prepare()
    for r in [r for r in run_session.results.values() if r["end"] == "survived"]:
        change = mutations.mutation(r["kind"], r["offset"], r["old"], r["new"])
        try:
            unchanged = diff_of(r["file"], change) == r["diff"]
        except (AssertionError, OSError):
            unchanged = False
        if unchanged:
            run_session.try_out(r["id"], r["file"], change)
        else:
            print(f"{r['id']}: {r['file']} has changed there; look at it by hand", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutations that compile (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same mutations (default: 1)")
    parser.add_argument("--files", nargs="+", default=CODE, metavar="PATTERN", help="of which sources (default: those without CAF)")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="AREA", help="which tests (default: the unit tests)")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="default: build/release")
    parser.add_argument("--dir", type=pathlib.Path, default=ROOT / "build/mutation", help="of results (default: build/mutation)")
    parser.add_argument("--patience", type=float, default=30, metavar="SECONDS",
                        help="a test that takes these and ten times its usual ones hangs (default: 30)")
    parser.add_argument("--specs", nargs="+", default=["~[cuda]"], metavar="SPEC",
                        help="which test cases, as Catch2 takes it (default: not the emulated GPU's, which take long)")
    parser.add_argument("--nearest", action="store_true",
                        help="only the tests that are about the code's folder; then --again runs the others, too")
    parser.add_argument("--widest", type=int, default=12, metavar="OBJECTS",
                        help="leave out headers that go into more of them, which take long to compile (default: 12)")
    parser.add_argument("--again", action="store_true", help="try what survived once more")
    parser.add_argument("--equivalent", nargs=2, metavar=("ID", "REASON"), help="judge one that no test could notice")
    parser.add_argument("--report", action="store_true", help="only print what is known")
    options = parser.parse_args()
    options.build, options.dir = options.build.resolve(), options.dir.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends with it
    known = session(options)
    if mutations is None and not (options.equivalent or options.report):
        stop("there is no libclang; pip install libclang==14.0.6 brings it (the version that clang --version says)")
    if options.equivalent:
        number = int(options.equivalent[0])
        if number not in known.results:
            stop(f"there is no mutation {number} in {known.results_file}")
        known.record({"id": number, "end": "equivalent", "reason": options.equivalent[1]})
    elif options.again:
        known.lock()
        again(known)
        report(known)
    elif not options.report:
        known.lock()
        known.prepare()
        draws = lottery(options, known.tree)
        number = 0
        while len(known.counted()) < options.count or number < len(known.results):
            file, change = draws.draw()
            if number not in known.results:
                known.try_out(number, file, change)
            elif known.results[number]["diff"] != diff_of(file, change):
                stop(f"{known.folder} has results of other sources, files or seed; give another --dir, or remove it")
            number += 1
        report(known)
    else:
        report(known)


if __name__ == "__main__":
    main()
