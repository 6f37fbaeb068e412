#!/usr/bin/env python3
"""Measures tropilla beside llama.cpp (PyPI's xllamacpp) where memory holds a third of the model: each in a memory cgroup
of its own, tropilla streaming within a budget, llama.cpp with the file mapped, as one would run it there today.

    bench/compare_limited.py                                  as in docs/benchmarks.md
    bench/compare_limited.py --tropilla-args="--io direct"    more options for `tropilla bench` and `plan`
    bench/compare_limited.py --smoke --venv DIR               does it all work? (a small model, seconds)

Needs the Release build (scripts/build.sh), python3-venv for the peer, and leave to make a cgroup with a memory controller
(root, version 1 or 2); without that it says so and ends with status 0. The two take turns, each in a fresh process and a
fresh group, after the files' pages were dropped from the page cache. Each runs once without being measured; then a figure
is the median over the rounds, and a ratio the median of the rounds' ratios.

The limit of decode is the disk: bytes that a step streams (`tropilla plan`) / bandwidth. The bandwidth is that of the
model's file, read with O_DIRECT before and after each run of tropilla.
"""
import argparse
import contextlib
import ctypes
import datetime
import itertools
import json
import mmap
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time

import compare_peer
import memory_group
from compare_peer import fail, median, say

ROOT = pathlib.Path(__file__).resolve().parents[1]
MIB = 1 << 20
TESTS = ("prefill", "decode")
# What the project aims at: times the peer, and fraction of the disk's limit.
RATIO_GOALS = {"prefill": 3.0, "decode": 1.2}
LIMIT_GOAL = 0.95
GOAL_CASE = ("q8_0", 512, 420 * MIB)
# Its budget leaves this for the program itself: code, stacks, tables and the kernel's own for it.
HEADROOM = 48 * MIB
READ_BYTES, READS_AT_ONCE = MIB, 8
BEGIN, END = "<!-- compare_limited: begin -->", "<!-- compare_limited: end -->"


def parse_bytes(text):
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 420MiB")
    return int(float(found.group(1)) * 1024 ** " KMG".index(found.group(2).upper() or " "))


# -- the disk --------------------------------------------------------------------------------------------------------


def cached_bytes(path):
    """How much of a file is in the page cache."""
    size = path.stat().st_size
    if size == 0:
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as pages:
        residency = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(pages)  # a private mapping may be written, which this wants, but is not
        status = ctypes.CDLL(None, use_errno=True).mincore(ctypes.c_void_p(ctypes.addressof(first)),
                                                           ctypes.c_size_t(size), residency)
        del first
        if status != 0:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        return sum(page & 1 for page in residency) * mmap.PAGESIZE


def drop_cached(paths):
    """Drops files from the page cache; what stays in it would be read without the disk, and in nobody's group."""
    for path in paths:
        with open(path, "rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if (stays := cached_bytes(path)) > path.stat().st_size / 100:
            say(f"{stays / MIB:.0f} MiB of {path.name} stay in the page cache: another process uses it")


def huge_buffers(count, bytes_each):
    """Buffers in huge pages, where the kernel has them: reads into scattered 4 KiB pages reach less than the disk can do
    (1.1 to 3.3 GB/s beside 3.5 on a virtual disk), from one allocation to the next."""
    huge = 2 * MIB
    whole = mmap.mmap(-1, count * bytes_each + huge, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        whole.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(whole)) % huge
    whole[:] = bytes(len(whole))  # page faults are not the disk's
    return [memoryview(whole)[start + i * bytes_each:start + (i + 1) * bytes_each] for i in range(count)]


def disk_bandwidth(path):
    """Bytes/s of a whole file, past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size = path.stat().st_size
    index, failures = itertools.count(), []

    def work(buffer):
        try:
            while (offset := next(index) * READ_BYTES) < size:
                os.preadv(fd, [buffer], offset)
        except OSError as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(b,)) for b in huge_buffers(READS_AT_ONCE, READ_BYTES)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begin
    os.close(fd)
    if failures:
        fail(f"cannot read {path} with O_DIRECT ({failures[0].strerror})")
    return size / seconds


# -- the two ---------------------------------------------------------------------------------------------------------


def peer_worker(job):
    """compare_peer's, in the group only from here: the interpreter, which a llama-cli would not have, is not counted."""
    import xllamacpp  # noqa: F401  (before joining)

    pathlib.Path(job["members"]).write_text(str(os.getpid()))
    compare_peer.peer_worker(job)


class Peer(compare_peer.Peer):
    def measure(self, model, options, group):
        with tempfile.NamedTemporaryFile(suffix=".json") as result:
            job = {"model": str(model.path), "threads": options.threads, "context": options.context,
                   "prefill": options.prefill, "decode": options.decode, "vocabulary": model.vocabulary,
                   "result": result.name, "members": str(group.members),
                   # 1: mapped. Its cache of prompts in memory is for servers with memory to spare.
                   "parameters": {"load_mode": 1, "use_mmap": True, "cache_ram_mib": 0}}
            run = group.run([self.python, __file__, "--peer-worker", json.dumps(job)], join=False,
                            timeout=options.timeout)
            text = pathlib.Path(result.name).read_text()
        if run["status"] == 0 and text:
            figures = json.loads(text)
            self.system = figures.pop("system")
            run |= figures
        return run


class Tropilla:
    def __init__(self, program):
        self.program, self.isa = program, ""
        if not program.exists():
            fail(f"{program} is missing; scripts/build.sh builds it")

    def plan(self, model, options):
        """What `tropilla plan` says; its object comes with status 2, too, where the budget is too small."""
        command = [str(c) for c in (self.program, "plan", "--json", "-m", model.path, "--ctx", options.context, "-t",
                                    options.threads, "--budget", options.budget, *options.tropilla_args)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            return json.loads(done.stdout)
        except ValueError:
            fail(f"`{shlex.join(command)}` printed no plan: {done.stderr.strip()}")

    def measure(self, model, options, group):
        run = group.run([self.program, "bench", "-m", model.path, "-p", options.prefill, "-n", options.decode, "-r", 1,
                         "--ctx", options.context, "-t", options.threads, "--budget", options.budget, "-q", "-o", "json",
                         *options.tropilla_args], timeout=options.timeout)
        if run["status"] == 0:
            found = {test["test"]: test for test in json.loads(run["stdout"])}
            wanted = {"prefill": f"pp{options.prefill}", "decode": f"tg{options.decode}"}
            run |= {name: found[test]["tok_s"] for name, test in wanted.items()}
            self.isa = next(iter(found.values())).get("isa", self.isa)
        return run


def packed_files():
    """What tropilla may have packed, which it then reads instead of the model's file."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return [p for p in (cache / "tropilla/packed").rglob("*") if p.is_file()]


def outcome(run, options):
    """Why a run has no figures, as a sentence's end; "" if it has."""
    if run["timed_out"]:
        return f"had not ended after {options.timeout:g} s"
    if killed(run):
        return "was killed by the kernel: out of memory"
    if run["status"] != 0:
        words = (run["stderr"].strip().splitlines() or ["no words"])[-1]
        return f"ended with status {run['status']}: {words}"
    return ""


def killed(run):
    return bool(run["oom_kills"]) or run["status"] == -signal.SIGKILL and not run["timed_out"]


# -- measuring -------------------------------------------------------------------------------------------------------


def run_one(engine, model, options):
    """One fresh process in a fresh group, from a cold page cache."""
    drop_cached([model.path, *packed_files()])
    with memory_group.MemoryGroup(options.limit) as group:
        run = engine.measure(model, options, group)
    del run["stdout"]
    run["stderr"] = run["stderr"][-2000:]
    return run | {"outcome": outcome(run, options)}


def measure(model, tropilla, peer, options):
    engines = {"ours": tropilla, "peer": peer}
    say("a run of each that is not counted")
    warm = {who: run_one(engine, model, options) for who, engine in engines.items()}
    rounds = []
    for index in range(options.rounds):
        busy = compare_peer.wait_until_idle(options)
        one = {"busy_cores": round(busy, 2)}
        for who in list(engines)[:: 1 if index % 2 == 0 else -1]:
            if who == "ours":
                before = disk_bandwidth(model.path)
            one[who] = run_one(engines[who], model, options)
            if who == "ours":
                one["disk_b_s"] = [before, disk_bandwidth(model.path)]
        rounds.append(one)
        say(f"round {index + 1} of {options.rounds}: " + "; ".join(
            f"{who} " + (one[who]["outcome"] or ", ".join(f"{t} {one[who][t]:.2f}" for t in TESTS)) for who in engines))
    return warm, rounds


def spread(values):
    """Median, least and greatest of what is there, or None."""
    values = [v for v in values if v is not None]
    return {"median": median(values), "least": min(values), "greatest": max(values)} if values else None


def of_limit(run, disk, streamed):
    """The share of the disk's bandwidth that decoding used; None where nothing was decoded or is streamed."""
    if not streamed or run.get("decode") is None:
        return None
    return run["decode"] * streamed / (sum(disk) / len(disk))


def summarise(test, rounds, streamed, goals):
    """One row of the table."""
    ratios = [r["ours"][test] / r["peer"][test] if r["ours"].get(test) and r["peer"].get(test) else None for r in rounds]
    row = {"ours_tok_s": spread(r["ours"].get(test) for r in rounds),
           "peer_tok_s": spread(r["peer"].get(test) for r in rounds), "ratio": spread(ratios)}
    if test == "decode":
        row["ours_of_limit"] = spread(of_limit(r["ours"], r["disk_b_s"], streamed) for r in rounds)
    if goals:
        row["ratio_goal"] = RATIO_GOALS[test]
        row["ratio_met"] = bool(row["ratio"]) and row["ratio"]["median"] >= RATIO_GOALS[test]
        if test == "decode":
            row["limit_goal"] = LIMIT_GOAL
            row["limit_met"] = bool(row["ours_of_limit"]) and row["ours_of_limit"]["median"] >= LIMIT_GOAL
    return row


def memory_of(who, warm, rounds):
    runs = [warm[who], *(r[who] for r in rounds)]
    figures = {name: spread(r[who].get(name) for r in rounds)
               for name in ("peak_bytes", "anonymous_bytes", "read_bytes", "prefill_read_bytes", "decode_read_bytes")}
    return figures | {"runs": len(runs), "killed": sum(map(killed, runs)),
                      "outcomes": sorted({run["outcome"] for run in runs if run["outcome"]})}


# -- what it prints --------------------------------------------------------------------------------------------------


def cell(figure, form, scale=1.0, unit=""):
    """Median (least to greatest), or a dash; the median alone where all figures look the same."""
    if not figure:
        return "–"
    m, least, greatest = (form.format(figure[k] / scale) for k in ("median", "least", "greatest"))
    return m + unit + (f" ({least} to {greatest})" if least != greatest else "")


def as_markdown(report):
    disk, streamed, decode = report["disk_b_s"], report["streamed_bytes"], report["decode"]
    lines = [
        f"{report['model']} {report['type']} ({report['file_bytes'] / 1e9:.2f} GB) in {report['limit_bytes'] / MIB:.0f} "
        f"MiB, tropilla's budget {report['budget_bytes'] / MIB:.0f} MiB. {report['cpu']}, {report['threads']} threads"
        f"{report['isa'] and ', ' + report['isa']}; xllamacpp {report['peer_version']}; medians of {report['rounds']} "
        f"rounds (least to greatest); {report['date']}.",
        f"The disk reads {cell(disk, '{:.2f}', 1e9)} GB/s; "
        + (f"the budget is less than the smallest plan, {report['plan_bytes'] / MIB:.1f} MiB." if not report["plan_fits"]
           else f"a step streams {streamed / 1e6:.0f} MB, so the limit of decode is {disk['median'] / streamed:.2f} tok/s."
           if streamed else "nothing needs to be streamed."), "",
        "| test | tropilla tok/s | llama.cpp tok/s | ratio | goal | of the limit | goal |",
        "| --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    verdict = lambda row, key: "met" if row[key] else "missed"
    for test, row in report["rows"].items():
        name = f"pp{report['prefill']}" if test == "prefill" else f"tg{decode}"
        ratio_goal = f"{row['ratio_goal']:g}x {verdict(row, 'ratio_met')}" if "ratio_goal" in row else ""
        limit_goal = f"{row['limit_goal']:.0%} {verdict(row, 'limit_met')}" if "limit_goal" in row else ""
        lines.append(f"| {name} | {cell(row['ours_tok_s'], '{:.2f}')} | {cell(row['peer_tok_s'], '{:.2f}')} "
                     f"| {cell(row['ratio'], '{:.2f}', unit='x')} | {ratio_goal} "
                     f"| {cell(row['ours_of_limit'], '{:.0%}') if 'ours_of_limit' in row else ''} | {limit_goal} |")
    ours, peer = report["memory"]["ours"], report["memory"]["peer"]
    step = peer["decode_read_bytes"] and {k: v / (decode + 1) for k, v in peer["decode_read_bytes"].items()}
    planned = f"{streamed / 1e6:.0f} (planned)" if streamed else "–"
    lines += [
        "", "| | tropilla | llama.cpp |", "| --- | ---: | ---: |",
        f"| killed for memory (goal: never) | {ours['killed']} of {ours['runs']} runs "
        f"| {peer['killed']} of {peer['runs']} runs |",
        *(f"| {title}, {unit} | {cell(ours[name], form, scale)} | {cell(peer[name], form, scale)} |"
          for title, name, unit, form, scale in (
              ("most memory of the group, with page cache", "peak_bytes", "MiB", "{:.1f}", MIB),
              ("most anonymous memory", "anonymous_bytes", "MiB", "{:.1f}", MIB),
              ("read from the disk by a whole run", "read_bytes", "GB", "{:.2f}", 1e9))),
        f"| read from the disk by a decode step, MB | {planned} | {cell(step, '{:.0f}', 1e6)} |",
        f"| read from the disk by a prefill, MB | | {cell(peer['prefill_read_bytes'], '{:.0f}', 1e6)} |",
    ]
    for who, name in (("ours", "tropilla"), ("peer", "llama.cpp")):
        lines += itertools.chain(*(("", f"A run of {name} {words}") for words in report["memory"][who]["outcomes"]))
    if report["busy_rounds"]:
        lines += ["", f"In {report['busy_rounds']} of the rounds other programs kept the machine busy: read the ratios "
                  "with care."]
    return "\n".join(lines) + "\n"


def compare(options, environment):
    tropilla = Tropilla(options.bin.resolve())
    peer = Peer(environment)
    model = next(compare_peer.open_models([options.model or options.name], tropilla, options))
    if options.smoke:
        model.name = "smoke"
    plan = tropilla.plan(model, options)
    streamed = plan["streamed_bytes"] if plan["fits"] else 0
    warm, rounds = measure(model, tropilla, peer, options)
    goals = (model.name, options.prefill, options.limit) == GOAL_CASE
    return {
        "date": datetime.date.today().isoformat(), "cpu": compare_peer.cpu_name(), "threads": options.threads,
        "isa": tropilla.isa, "peer_version": peer.version, "peer_system": peer.system, "model": model.title,
        "type": model.type, "file_bytes": model.path.stat().st_size, "limit_bytes": options.limit,
        "budget_bytes": options.budget, "context": options.context, "prefill": options.prefill, "decode": options.decode,
        "rounds": options.rounds, "tropilla_args": options.tropilla_args, "streamed_bytes": streamed,
        "plan_bytes": plan["total_bytes"], "plan_fits": plan["fits"],
        "disk_b_s": spread(b for r in rounds for b in r["disk_b_s"]),
        "rows": {test: summarise(test, rounds, streamed, goals) for test in TESTS},
        "memory": {who: memory_of(who, warm, rounds) for who in ("ours", "peer")},
        "busy_rounds": sum(r["busy_cores"] > 0 for r in rounds), "warm_up": warm, "all_rounds": rounds,
    }


def parse_arguments(arguments=None):
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tropilla/bench"
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--peer-worker", help=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", help="a file instead of the 1B shape in Q8_0")
    parser.add_argument("--limit", type=parse_bytes, metavar="BYTES", help="of a process, all in all (420MiB)")
    parser.add_argument("--budget", type=parse_bytes, metavar="BYTES", help="tropilla's (the limit less 48MiB)")
    parser.add_argument("-p", "--prefill", type=int, help="tokens of the prompt (512)")
    parser.add_argument("-n", "--decode", type=int, help="decode steps (8)")
    parser.add_argument("-r", "--rounds", type=int, help="rounds (3)")
    parser.add_argument("-t", "--threads", type=int, default=2, help="of both (2)")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="of a run (600)")
    parser.add_argument("--tropilla-args", type=shlex.split, default=[], metavar="ARGS",
                        help="one word with more options for tropilla (write --tropilla-args=...)")
    parser.add_argument("--smoke", action="store_true", help="a small model, a small limit, one round, no waiting")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md", help="on standard output (md)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the report with all rounds here")
    parser.add_argument("--update", type=pathlib.Path, metavar="PAGE", help="also put the tables into a page")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin/tropilla",
                        help="the program (build/release/bin/tropilla)")
    parser.add_argument("--venv", type=pathlib.Path, metavar="DIR", help="keep the peer's environment (a temporary one)")
    parser.add_argument("--cache", type=pathlib.Path, default=cache, help=f"where synthetic models are kept ({cache})")
    parser.add_argument("--idle-wait", type=float, metavar="S", help="wait for an idle machine (60)")
    parser.add_argument("--idle-cores", type=float, default=0.1, metavar="N", help="what counts as idle (0.1)")
    options = parser.parse_args(arguments)
    small = {"limit": 64 * MIB, "budget": 10 * MIB, "prefill": 32, "decode": 4, "rounds": 1, "idle_wait": 0}
    usual = {"limit": 420 * MIB, "prefill": 512, "decode": 8, "rounds": 3, "idle_wait": 60}
    for name, value in (small if options.smoke else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.budget is None:
        options.budget = options.limit - HEADROOM
    if min(options.prefill, options.decode, options.rounds, options.threads) < 1:
        parser.error("-p, -n, -r and -t must be at least 1")
    if not 0 < options.budget <= options.limit:
        parser.error(f"the budget must lie within the limit ({options.limit / MIB:.0f} MiB), and the process itself takes "
                     f"some of it; the usual one is {HEADROOM / MIB:.0f} MiB less")
    options.name = "q8_0"
    options.context = 64 * -(-(options.prefill + options.decode + 2) // 64)
    return options


def probe():
    """Raises memory_group.Unavailable where a process can't be limited."""
    with memory_group.MemoryGroup(64 * MIB) as group:
        group.run(["true"])


def main():
    options = parse_arguments()
    if options.peer_worker:
        peer_worker(json.loads(options.peer_worker))
        return 0
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        probe()
        with tempfile.TemporaryDirectory(prefix="tropilla-limited-") as throw_away:
            throw_away = pathlib.Path(throw_away)
            if options.smoke and not options.model:
                options.model = str(throw_away / "mini.gguf")
                compare_peer.run([options.bin.resolve(), "synth", "-q", "--shape", "mini", "--type", "Q8_0", "-o",
                                  options.model], "tropilla synth")
            report = compare(options, (options.venv or throw_away / "venv").resolve())
    except memory_group.Unavailable as e:
        say(f"skipped, nothing was measured: {e}")
        return 0
    except KeyboardInterrupt:
        say("interrupted; what it started has ended")
        return 130
    markdown = as_markdown(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.update:
        compare_peer.update_page(options.update, markdown, BEGIN, END)
    print(json.dumps(report, indent=2) + "\n" if options.output == "json" else markdown, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
