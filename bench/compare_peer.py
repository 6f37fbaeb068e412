#!/usr/bin/env python3
"""Measures tropilla beside llama.cpp (PyPI's xllamacpp) on the same files, and beside what the machine allows.

    bench/compare_peer.py                              all four models, as in docs/benchmarks.md
    bench/compare_peer.py --models smollm2 --rounds 3  less
    bench/compare_peer.py -m model.gguf                a file of yours

Needs the Release build (scripts/build.sh) and, for the peer, python3-venv. The two take turns, each in a process of its
own that loads, warms up, measures once and ends, so that neither has the other's threads or memory beside it. A figure
is the median over the rounds; a ratio is the median of the rounds' ratios, with the least and the greatest.

The limits come from `bench_kernels --limits --json`, read after each round: bandwidth of reading, int8 operations/s.
  decode    bytes of the matrices that a token reads * tok/s / bandwidth
  prefill   2 * parameters of the matrices * tok/s / int8 peak; the output head counts for one row of the prompt
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SYNTHETIC = {"q4_0": "Q4_0", "q4_k": "Q4_K", "q8_0": "Q8_0"}  # shape llama-3.2-1b
MODELS = ["smollm2", *SYNTHETIC]
# What the project aims at: times the peer, and fraction of the limit.
GOALS = {
    "smollm2": {"prefill": (6.0, 0.45), "decode": (2.5, 0.75)},
    "q4_0": {"prefill": (1.8, 0.60), "decode": (1.05, 0.90)},
    "q4_k": {"prefill": (1.8, 0.60), "decode": (1.05, 0.90)},
    "q8_0": {"prefill": (2.8, 0.60), "decode": (0.98, 0.90)},
}
TESTS = ("prefill", "decode")
BEGIN, END = "<!-- compare_peer: begin -->", "<!-- compare_peer: end -->"


def say(sentence):
    print(f"{pathlib.Path(sys.argv[0]).stem}: {sentence}", file=sys.stderr, flush=True)


def fail(sentence):
    say(sentence)
    sys.exit(2)


def run(command, what, **more):
    """Standard output of a command; its own words and a sentence when it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode != 0:
        print(done.stderr[-2000:], file=sys.stderr)
        fail(f"{what} ended with status {done.returncode} (its last words are above)")
    return done.stdout


# -- the peer: this file again, in the environment that has xllamacpp ------------------------------------------------


def disk_reads(pid="self"):
    """Bytes that a process has had read from disks, by faults of mapped pages, too."""
    for line in open(f"/proc/{pid}/io"):
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    return 0


def peer_worker(job):
    """Loads, warms up, measures one prefill and one decode. Prints a JSON object into job["result"]."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = job["model"]
    parameters.n_ctx = job["context"]
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.warmup = True
    parameters.cpuparams.n_threads = job["threads"]
    parameters.cpuparams_batch.n_threads = job["threads"]
    for name, value in job.get("parameters", {}).items():
        if hasattr(parameters, name):  # versions differ in what they have
            setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)
    generator = random.Random(1)
    prompt = [generator.randrange(job["vocabulary"]) for _ in range(job["prefill"])]

    def complete(ids, count):
        answer = server.handle_completions({"prompt": ids, "n_predict": count, "max_tokens": count, "temperature": 0,
                                            "cache_prompt": False, "ignore_eos": True})
        if "timings" not in answer:
            raise RuntimeError(f"no timings in the answer: {str(answer)[:300]}")
        return answer["timings"]

    complete(prompt, 1)
    complete(prompt[:2], 9)
    read = [disk_reads()]
    first = complete(prompt, 1)
    read.append(disk_reads())
    # Its clock of generation starts with the first token, which the prompt's pass gave: n steps are n + 1 tokens.
    second = complete(prompt[:1], job["decode"] + 1)
    read.append(disk_reads())
    if first["prompt_n"] != job["prefill"] or second["predicted_n"] != job["decode"] + 1:
        raise RuntimeError(f"asked for {job['prefill']} and {job['decode'] + 1} tokens, computed {first['prompt_n']} "
                           f"and {second['predicted_n']}")
    result = {
        "prefill": first["prompt_n"] * 1000.0 / first["prompt_ms"],
        "decode": (second["predicted_n"] - 1) * 1000.0 / second["predicted_ms"],
        # Of the whole request: its decode has one pass more than the steps that are timed, the prompt's.
        "prefill_read_bytes": read[1] - read[0], "decode_read_bytes": read[2] - read[1],
        "system": str(xllamacpp.get_system_info()).strip(),
    }
    pathlib.Path(job["result"]).write_text(json.dumps(result))


class Peer:
    def __init__(self, environment):
        self.python = environment / "bin/python"
        if not self.python.exists():
            say(f"making an environment with xllamacpp in {environment}")
            made = subprocess.run([sys.executable, "-m", "venv", str(environment)], capture_output=True, text=True)
            if made.returncode != 0:
                fail(f"python cannot make an environment ({(made.stdout + made.stderr).strip().splitlines()[-1]}); "
                     "scripts/deps.sh --test installs python3-venv")
        if subprocess.run([self.python, "-c", "import xllamacpp"], capture_output=True).returncode != 0:
            run([self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "xllamacpp"],
                "pip install xllamacpp")
        self.version = run([self.python, "-c", "import importlib.metadata as m; print(m.version('xllamacpp'))"],
                           "asking for xllamacpp's version").strip()
        self.system = ""

    def measure(self, model, options):
        with tempfile.NamedTemporaryFile(suffix=".json") as result:
            job = {"model": str(model.path), "threads": options.threads, "context": options.context,
                   "prefill": options.prefill, "decode": options.decode, "vocabulary": model.vocabulary,
                   "result": result.name}
            run([self.python, __file__, "--peer-worker", json.dumps(job)], f"the peer on {model.path.name}")
            figures = json.loads(pathlib.Path(result.name).read_text())
        self.system = figures["system"]
        return figures


# -- tropilla --------------------------------------------------------------------------------------------------------


class Tropilla:
    def __init__(self, build):
        self.program = build / "bin/tropilla"
        self.kernels = build / "bin/bench_kernels"
        for program in (self.program, self.kernels):
            if not program.exists():
                fail(f"{program} is missing; scripts/build.sh builds it")
        self.isa = ""

    def measure(self, model, options):
        out = run([self.program, "bench", "-m", model.path, "-p", options.prefill, "-n", options.decode, "-r", 1,
                   "-t", options.threads, "-o", "json"], f"tropilla bench on {model.path.name}")
        found = {test["test"]: test for test in json.loads(out)}
        wanted = {"prefill": f"pp{options.prefill}", "decode": f"tg{options.decode}"}
        self.isa = next(iter(found.values())).get("isa", self.isa)
        return {name: found[test]["tok_s"] for name, test in wanted.items()}

    def limits(self, options):
        found = json.loads(run([self.kernels, "--limits", "--json", "-t", options.threads], "bench_kernels --limits"))
        return {"decode": found["read_gb_s"] * 1e9, "prefill": found["int8_gop_s"] * 1e9}


# -- models ----------------------------------------------------------------------------------------------------------


class Model:
    """A file, and what a token costs in it."""

    def __init__(self, name, path, tropilla, options):
        self.name, self.path = name, path
        facts = json.loads(run([tropilla.program, "inspect", "--json", path], f"tropilla inspect {path}"))
        self.type = facts["type"]
        self.title = facts["name"] or path.stem
        matrices = {t["name"]: t for t in facts["tensors"] if len(t["shape"]) == 2}
        head = matrices.get("output.weight", matrices.get("token_embd.weight"))
        layers = [t for n, t in matrices.items() if n.startswith("blk.")]
        if not head or not layers:
            fail(f"{path} has no Llama layers to compute the limits from")
        self.vocabulary = min(t["shape"][1] for n, t in matrices.items() if n == "token_embd.weight")
        count = lambda t: t["shape"][0] * t["shape"][1]
        self.decode_bytes = sum(t["bytes"] for t in layers) + head["bytes"]
        self.prefill_operations = 2 * (sum(map(count, layers)) + count(head) / options.prefill)

    def cost(self, test):
        """Bytes or operations of one token."""
        return self.decode_bytes if test == "decode" else self.prefill_operations


def open_models(names, tropilla, options):
    for name in names:
        if name == "smollm2":
            path = pathlib.Path(run([ROOT / "scripts/model.sh"], "scripts/model.sh").strip())
        elif name in SYNTHETIC:
            path = options.cache / f"llama-3.2-1b-{SYNTHETIC[name]}.gguf"
            if not path.exists():
                options.cache.mkdir(parents=True, exist_ok=True)
                say(f"writing {path} (once)")
                run([tropilla.program, "synth", "-q", "--shape", "llama-3.2-1b", "--type", SYNTHETIC[name], "-o", path],
                    "tropilla synth")
        else:
            path = pathlib.Path(name)
            if not path.is_file():
                fail(f"there is no file {path}, and no known model of that name ({', '.join(MODELS)})")
        yield Model(name, path, tropilla, options)


# -- measuring -------------------------------------------------------------------------------------------------------


def busy_cores(seconds=0.5):
    """Cores that anybody used meanwhile."""

    def read():
        fields = [int(f) for f in open("/proc/stat").readline().split()[1:]]
        return sum(fields[:8]) - fields[3] - fields[4]

    before = read()
    time.sleep(seconds)
    return (read() - before) / os.sysconf("SC_CLK_TCK") / seconds


def wait_until_idle(options):
    """What was busy when patience ended, 0 where the machine is idle."""
    until = time.monotonic() + options.idle_wait
    while (busy := busy_cores()) > options.idle_cores:
        if time.monotonic() > until:
            say(f"others keep {busy:.1f} cores busy; measuring nevertheless")
            return busy
    return 0.0


def measure(model, tropilla, peer, options):
    rounds = []
    for index in range(options.rounds):
        busy = wait_until_idle(options)
        # Who goes first changes, so that neither always has the warmer or the cooler machine.
        order = [("ours", tropilla), ("peer", peer)] if index % 2 == 0 else [("peer", peer), ("ours", tropilla)]
        one = {"busy_cores": round(busy, 2)}
        for who, engine in order:
            one[who] = engine.measure(model, options)
        one["limit"] = tropilla.limits(options)
        rounds.append(one)
        say(f"{model.title} {model.type}, round {index + 1} of {options.rounds}: "
            + ", ".join(f"{t} {one['ours'][t]:.1f} / {one['peer'][t]:.1f}" for t in TESTS))
    return rounds


def median(values):
    return statistics.median(list(values))


def summarise(model, test, rounds, options):
    """One row of the table."""
    ratios = [r["ours"][test] / r["peer"][test] for r in rounds]
    limit = median(r["limit"][test] for r in rounds)
    ours, theirs = (median(r[who][test] for r in rounds) for who in ("ours", "peer"))
    row = {
        "model": model.title, "type": model.type, "file": model.path.name,
        "test": f"{'pp' if test == 'prefill' else 'tg'}{options.prefill if test == 'prefill' else options.decode}",
        "ours_tok_s": ours, "peer_tok_s": theirs,
        "ratio": median(ratios), "ratio_least": min(ratios), "ratio_greatest": max(ratios),
        "limit": limit, "limit_tok_s": limit / model.cost(test),
        "ours_of_limit": median(r["ours"][test] * model.cost(test) / r["limit"][test] for r in rounds),
        "peer_of_limit": median(r["peer"][test] * model.cost(test) / r["limit"][test] for r in rounds),
        "busy_rounds": sum(r["busy_cores"] > 0 for r in rounds),
        "ours_all": [r["ours"][test] for r in rounds], "peer_all": [r["peer"][test] for r in rounds],
    }
    if model.name in GOALS and (options.prefill, options.decode) == (512, 128):
        row["ratio_goal"], row["limit_goal"] = GOALS[model.name][test]
        row["ratio_met"] = row["ratio"] >= row["ratio_goal"]
        row["limit_met"] = row["ours_of_limit"] >= row["limit_goal"]
    return row


def cpu_name():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def as_markdown(report):
    limits = report["limits"]
    lines = [
        f"{report['cpu']}, {report['threads']} threads, {report['isa'] or 'unknown instruction set'}; "
        f"xllamacpp {report['peer_version']}; medians of {report['rounds']} rounds; {report['date']}.",
        f"Limits of this run: {limits['read_gb_s']:.1f} GB/s read, {limits['int8_gop_s']:.0f} GOP/s int8.", "",
        "| model | test | tropilla tok/s | llama.cpp tok/s | ratio (least to greatest) | goal | of the limit "
        "| goal | llama.cpp of the limit |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- | ---: |",
    ]
    verdict = lambda row, key: "met" if row[key] else "missed"
    for row in report["rows"]:
        ratio_goal = f"{row['ratio_goal']:g}x {verdict(row, 'ratio_met')}" if "ratio_goal" in row else ""
        limit_goal = f"{row['limit_goal']:.0%} {verdict(row, 'limit_met')}" if "limit_goal" in row else ""
        lines.append(f"| {row['model']} {row['type']} | {row['test']} | {row['ours_tok_s']:.1f} | {row['peer_tok_s']:.1f} "
                     f"| {row['ratio']:.2f}x ({row['ratio_least']:.2f} to {row['ratio_greatest']:.2f}) | {ratio_goal} "
                     f"| {row['ours_of_limit']:.0%} | {limit_goal} | {row['peer_of_limit']:.0%} |")
    busy = sum(row["busy_rounds"] for row in report["rows"] if row["test"].startswith("pp"))
    if busy:
        lines += ["", f"In {busy} of the rounds other programs kept the machine busy: read the ratios with care."]
    return "\n".join(lines) + "\n"


def update_page(page, markdown, begin=BEGIN, end=END):
    """Puts the table between the two marks of a page."""
    text = page.read_text()
    if begin not in text or end not in text:
        fail(f"{page} lacks the lines {begin} and {end} that the table goes between")
    head, rest = text.split(begin, 1)
    page.write_text(f"{head}{begin}\n{markdown}{end}{rest.split(end, 1)[1]}")


def draw(script, report, folder):
    """The pictures of a report, by whichever Python has matplotlib."""
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import matplotlib"], capture_output=True).returncode == 0:
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(report, file)
                file.flush()
                run([python, ROOT / "bench" / script, file.name, folder], f"bench/{script}")
            return
    say("no pictures: matplotlib is missing (Debian's python3-matplotlib; scripts/deps.sh --test installs it)")


def parse_arguments():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tropilla/bench"
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--peer-worker", help=argparse.SUPPRESS)
    parser.add_argument("--models", default=",".join(MODELS), help=f"some of {','.join(MODELS)} (all)")
    parser.add_argument("-m", "--model", action="append", help="a file instead of these; may be repeated")
    parser.add_argument("-p", "--prefill", type=int, default=512, help="tokens of the prompt (512)")
    parser.add_argument("-n", "--decode", type=int, default=128, help="decode steps (128)")
    parser.add_argument("-r", "--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both (the cores)")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md", help="on standard output (md)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the report with all rounds here")
    parser.add_argument("--update", type=pathlib.Path, metavar="PAGE", help="also put the table into a page")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="the build (build/release)")
    parser.add_argument("--venv", type=pathlib.Path, metavar="DIR", help="keep the peer's environment (a temporary one)")
    parser.add_argument("--cache", type=pathlib.Path, default=cache, help=f"where synthetic models are kept ({cache})")
    parser.add_argument("--idle-wait", type=float, default=60, metavar="S", help="wait for an idle machine (60)")
    parser.add_argument("--idle-cores", type=float, default=0.1, metavar="N", help="what counts as idle (0.1)")
    options = parser.parse_args()
    if min(options.prefill, options.decode, options.rounds, options.threads) < 1:
        parser.error("-p, -n, -r and -t must be at least 1")
    options.context = 256 * -(-(options.prefill + options.decode + 2) // 256)
    return options


def compare(options, environment):
    tropilla = Tropilla(options.build.resolve())
    peer = Peer(environment)
    rows, details = [], {}
    for model in open_models(options.model or options.models.split(","), tropilla, options):
        rounds = measure(model, tropilla, peer, options)
        details[model.path.name] = rounds
        rows += [summarise(model, test, rounds, options) for test in TESTS]
    every = [r["limit"] for rounds in details.values() for r in rounds]
    return {
        "date": datetime.date.today().isoformat(), "cpu": cpu_name(), "threads": options.threads, "isa": tropilla.isa,
        "rounds": options.rounds, "peer_version": peer.version, "peer_system": peer.system,
        "limits": {"read_gb_s": median(e["decode"] for e in every) / 1e9,
                   "int8_gop_s": median(e["prefill"] for e in every) / 1e9},
        "rows": rows, "all_rounds": details,
    }


def main():
    options = parse_arguments()
    if options.peer_worker:
        peer_worker(json.loads(options.peer_worker))
        return
    with tempfile.TemporaryDirectory(prefix="tropilla-peer-") as throw_away:
        report = compare(options, (options.venv or pathlib.Path(throw_away)).resolve())
    markdown = as_markdown(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.update:
        update_page(options.update, markdown)
    print(json.dumps(report, indent=2) if options.output == "json" else markdown, end="")


if __name__ == "__main__":
    main()
