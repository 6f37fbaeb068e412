#!/usr/bin/env python3
"""Measures what the memory strategies gain: an honest baseline, each strategy alone, and all of them (the runtime).

    bench/ablation.py                                    SmolLM2 and the 1B shape, as in docs/ablation.md
    bench/ablation.py --update docs/ablation.md --json ablation.json --plots docs
    bench/ablation.py -m model.gguf --rounds 3           a file of yours

Needs the Release build (scripts/build.sh). Each figure is a process of bench_ablation that opens the model, computes a
prompt and a few tokens, and ends; strategies take turns, and each round begins with another one. A change is the median
of the rounds' ratios to the baseline of the same round, with the least and the greatest. Pictures need matplotlib
(Debian's python3-matplotlib; scripts/deps.sh --test installs it).

Prompts are sized so that a pass over the streamed weights loads about as long as it computes: a run of the baseline
says how long both take here.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from compare_peer import cpu_name, draw, fail, median, run, say, update_page, wait_until_idle

ROOT = pathlib.Path(__file__).resolve().parents[1]
TITLES = {"smollm2": "SmolLM2-135M", "llama-3.2-1b": "1B shape"}
MODELS = list(TITLES)
BEGIN, END = "<!-- ablation: begin -->", "<!-- ablation: end -->"
MIB = 1 << 20
PASSES = 2  # over the streamed weights, until the first token
# By case; the first is what the others are compared with. Where memory is not managed, much of the baseline's loading is
# the processor giving out fresh pages, which can't hide behind computing: `managed` is asynchronous loading without that.
STRATEGIES = {
    "whole": ["baseline", "memory", "loading", "all"],
    "streamed": ["baseline", "memory", "loading", "all"],
    "managed": ["memory", "together"],
    "replicas": ["baseline", "sharing", "all"],
}
CASES = {"managed": "streamed, memory managed"}  # where the name alone says too little
NAMES = {"baseline": "baseline", "memory": "memory management", "loading": "asynchronous loading", "sharing": "sharing",
         "together": "and asynchronous loading", "all": "all (the runtime)"}
CLAIMED = {"together": "-20%, -15%", "memory": "-30%, -10%", "loading": "-20%, -15%", "sharing": "no copies"}
# What the project aims at: the change of memory and of time.
GOALS = {"memory": (-0.35, -0.12), "loading": (-0.25, -0.30)}


# -- models and workloads --------------------------------------------------------------------------------------------


class Bench:
    """bench_ablation on one model."""

    def __init__(self, name, path, options):
        self.name, self.path, self.options = name, path, options
        self.program = options.build / "bin/bench_ablation"
        facts = json.loads(run([options.build / "bin/tropilla", "inspect", "--json", path], f"tropilla inspect {path}"))
        self.title = f"{TITLES.get(name, path.stem)} {facts['type']}"
        run([self.program, "--model", path, "--packed", options.packed, "--prepare"], "packing the weights")

    def measure(self, strategy, case, more=()):
        command = [self.program, "--model", self.path, "--packed", self.options.packed, "--strategy", strategy,
                   "--context", self.options.context, "--threads", self.options.threads, "--io", "direct"]
        if case in ("streamed", "managed"):
            command.append("--streamed")
        if case == "replicas":
            # One copy that is mapped is one in the page cache; the others read from there, too.
            command += ["--replicas", self.options.replicas, "--io", "mmap" if strategy == "all" else "buffered"]
        return json.loads(run([*command, *more], f"bench_ablation {strategy}, {case}, on {self.path.name}"))

    def settled(self, strategy, case, more):
        """A measurement that does not depend on which strategy ran before: see --settle."""
        settle = self.options.settle * MIB or max(512 * MIB, 2 * self.path.stat().st_size)
        run([self.program, "--settle", settle], "bench_ablation --settle")
        busy = wait_until_idle(self.options) > 0
        return {**self.measure(strategy, case, more), "busy": busy}

    def rows_that_balance(self, strategy):
        """Rows of a step whose computing takes about as long as reading the streamed weights once."""
        rows = 256
        for _ in range(2):
            runs = [self.settled(strategy, "streamed", ["--rows", rows, "--prompt", PASSES * rows, "--decode", 1])
                    for _ in range(3)]
            ratio = median(r["prefill_load_s"] / r["prefill_compute_s"] for r in runs)
            rows = max(32, min(512, 16 * round(rows * ratio / 16)))
        return rows

    def workloads(self):
        size = lambda rows, prompt, decode: ["--rows", rows, "--prompt", prompt, "--decode", decode]
        rows, managed = (self.options.rows or self.rows_that_balance(s) for s in ("baseline", "memory"))
        self.work = {"whole": size(rows, rows, self.options.decode), "streamed": size(rows, PASSES * rows, 4),
                     "managed": size(managed, 2 * PASSES * managed, 2), "replicas": size(rows, min(rows, 64), 8)}


def open_models(options):
    for name in options.model or options.models.split(","):
        if name == "smollm2":
            path = pathlib.Path(run([ROOT / "scripts/model.sh"], "scripts/model.sh").strip())
        elif name == "llama-3.2-1b":
            path = options.cache / "llama-3.2-1b-Q4_0.gguf"
            if not path.exists():
                options.cache.mkdir(parents=True, exist_ok=True)
                say(f"writing {path} (once)")
                run([options.build / "bin/tropilla", "synth", "-q", "--shape", name, "--type", "Q4_0", "-o", path],
                    "tropilla synth")
        else:
            path = pathlib.Path(name)
            if not path.is_file():
                fail(f"there is no file {path}, and no known model of that name ({', '.join(MODELS)})")
        yield Bench(name, path, options)


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(bench, options):
    """By case: rounds, each a run by strategy."""
    out = {case: [] for case in STRATEGIES}
    for index in range(options.rounds):
        for case, strategies in STRATEGIES.items():
            turn = index % len(strategies)
            one = {s: bench.settled(s, case, bench.work[case]) for s in strategies[turn:] + strategies[:turn]}
            out[case].append(one)
            base = one[strategies[0]]
            say(f"{bench.title}, {case}, round {index + 1} of {options.rounds}: "
                + ", ".join(f"{s} {one[s]['elapsed_s'] / base['elapsed_s'] - 1:+.0%}" for s in strategies[1:]))
    return out


def perplexities(bench, options):
    """By case and strategy, over the beginning of the same text."""
    more = ["--text", ROOT / "tests/data/eval-text.txt", "--score", options.score, "--rows", 64]
    return {case: {s: bench.measure(s, case, more)["perplexity"] for s in strategies}
            for case, strategies in STRATEGIES.items()}


def spans(bench, strategy):
    """What a trace of the streamed case has of reading and computing: [row, first group, begin, seconds]. Of three runs
    the one in the middle."""
    runs = []
    for _ in range(3):
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            one = bench.settled(strategy, "streamed", [*bench.work["streamed"], "--trace", file.name])
            runs.append((one["first_token_s"], pathlib.Path(file.name).read_text()))
    events = json.loads(sorted(runs)[1][1])["traceEvents"]
    rows = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    streams = {"read": "load", "compute": "compute"}  # "stream host:0 read"
    kinds = {tid: streams[name.split()[-1]] for tid, name in rows.items()
             if name.startswith("stream ") and name.split()[-1] in streams}
    return sorted(([kinds[e["tid"]], e.get("args", {}).get("first"), round(e["ts"] / 1e6, 6), round(e["dur"] / 1e6, 6)]
                   for e in events if e["ph"] == "X" and e["tid"] in kinds), key=lambda s: s[2])


def summarise(rounds, case, strategy, whole_memory, ppl):
    """One row of the table."""
    of = lambda key: [r[strategy][key] for r in rounds]
    changes = lambda key: [r[strategy][key] / r[STRATEGIES[case][0]][key] - 1 for r in rounds]
    row = {"case": case, "strategy": strategy, "peak_bytes": median(of("peak_bytes")), "perplexity": ppl,
           "resident_bytes": median(of("pss_bytes" if case == "replicas" else "rss_peak_bytes")),
           "elapsed_s": median(of("elapsed_s")), "first_token_s": median(of("first_token_s")),
           "decode_tok_s": median(of("decode_tok_s")), "weight_copies": median(of("weight_copies")),
           "page_faults": median(of("page_faults")), "prefill_load_s": median(of("prefill_load_s")),
           "prefill_compute_s": median(of("prefill_compute_s")), "busy_runs": sum(of("busy"))}
    resident = "pss_bytes" if case == "replicas" else "rss_peak_bytes"
    for name, key in (("memory", "peak_bytes"), ("resident", resident), ("time", "elapsed_s"),
                      ("first_token", "first_token_s"), ("decode", "decode_tok_s")):
        found = changes(key)
        row[f"{name}_change"] = median(found)
        row[f"{name}_change_range"] = [min(found), max(found)]
    row["memory_change_to_whole"] = row["peak_bytes"] / whole_memory - 1
    return row


def same_tokens(rounds):
    return len({tuple(one["tokens"]) for r in rounds for one in r.values()}) == 1


# -- writing ---------------------------------------------------------------------------------------------------------


def percent(value):
    return f"{value:+.0%}".replace("-", "−") if abs(value) >= 0.005 else "0%"


def ranged(row, name):
    low, high = row[f"{name}_change_range"]
    return f"{percent(row[f'{name}_change'])} ({percent(low)} to {percent(high)})"


def goal_rows(report):
    """(goal, what was measured, met) in sentences."""
    for model in report["models"]:
        rows = {(r["case"], r["strategy"]): r for r in model["rows"]}
        for case in ("whole", "streamed"):
            r = rows[case, "memory"]
            for what, key, goal in (("memory", "memory_change", GOALS["memory"][0]),
                                    ("time", "time_change", GOALS["memory"][1])):
                yield (f"memory management: {what} {percent(goal)}", f"{model['title']}, {case}", percent(r[key]),
                       r[key] <= goal)
        r = rows["streamed", "loading"]
        memory, seconds = GOALS["loading"]
        for key, beside in (("memory_change_to_whole", "holds the whole model"), ("memory_change", "streams")):
            yield (f"asynchronous loading: memory {percent(memory)}",
                   f"{model['title']}, streamed, to the baseline that {beside}", percent(r[key]), r[key] <= memory)
        yield (f"asynchronous loading: time {percent(seconds)}", f"{model['title']}, streamed, to the first token",
               percent(r["first_token_change"]), r["first_token_change"] <= seconds)
        r = rows["managed", "together"]
        where = f"{model['title']}, {CASES['managed']}"
        yield f"asynchronous loading: memory {percent(memory)}", where, percent(r["memory_change"]), r["memory_change"] <= memory
        yield (f"asynchronous loading: time {percent(seconds)}", f"{where}, to the first token",
               percent(r["first_token_change"]), r["first_token_change"] <= seconds)
        for strategy in ("sharing", "all"):
            r = rows["replicas", strategy]
            yield ("replicas: 1.00 copies", f"{model['title']}, {report['replicas']} replicas, {NAMES[strategy]}",
                   f"{r['weight_copies']:.2f}", round(r["weight_copies"], 2) == 1.0)
        yield ("perplexity the same to the last digit", model["title"], f"{model['perplexity']}", model["perplexity_same"])


def as_markdown(report):
    lines = [f"{report['cpu']}, {report['threads']} threads; medians of {report['rounds']} rounds (least to greatest); "
             f"{report['date']}. Context limit {report['context']} tokens.", ""]
    for model in report["models"]:
        work = model["work"]
        told = [f"{CASES.get(case, case)}: a prompt of {w['prompt']}"
                + (f" in steps of {w['rows']}" if w["prompt"] > w["rows"] else "") + f" and {w['decode']} tokens"
                for case, w in work.items()]
        waits = [f"{CASES.get(case, case)} {w['load']:.2f} and {w['compute']:.2f}" for case, w in model["balance"].items()]
        lines += [f"**{model['title']}**, {'; '.join(told)} for each of {report['replicas']}. Seconds that "
                  f"loading and computing take until the first token with streamed weights: {', '.join(waits)}.", "",
                  "| strategy | memory, MiB | change | resident, MiB | time, s | change | first token, s | change | tok/s "
                  "| accuracy: perplexity | claimed |",
                  "| --- | ---: | ---: | ---: | ---: | --- | ---: | --- | ---: | ---: | --- |"]
        for r in model["rows"]:
            first = r["strategy"] == STRATEGIES[r["case"]][0]
            copies = f", {r['weight_copies']:.2f} copies" if r["case"] == "replicas" else ""
            lines.append(f"| {CASES.get(r['case'], r['case'])}: {NAMES[r['strategy']]} | {r['peak_bytes'] / MIB:.1f}{copies} "
                         f"| {'' if first else percent(r['memory_change'])} | {r['resident_bytes'] / MIB:.1f} "
                         f"| {r['elapsed_s']:.2f} | {'' if first else ranged(r, 'time')} | {r['first_token_s']:.2f} "
                         f"| {'' if first else ranged(r, 'first_token')} | {r['decode_tok_s']:.1f} | {r['perplexity']:.6f} "
                         f"| {'' if first else CLAIMED.get(r['strategy'], '').replace('-', '−')} |")
        lines.append("")
    lines += ["| goal | where | measured | |", "| --- | --- | ---: | --- |"]
    for goal, where, measured, met in goal_rows(report):
        lines.append(f"| {goal} | {where} | {measured} | {'met' if met else 'missed'} |")
    busy = [r["busy_runs"] for m in report["models"] for r in m["rows"]]
    if sum(busy):
        lines += ["", f"Before {sum(busy)} of {report['rounds'] * len(busy)} runs other programs kept the machine busy: read "
                  "the times with care."]
    return "\n".join(lines) + "\n"


def parse_arguments():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tropilla"
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help=f"some of {','.join(MODELS)} (all)")
    parser.add_argument("-m", "--model", action="append", help="a file instead of these; may be repeated")
    parser.add_argument("-r", "--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("-n", "--decode", type=int, default=32, help="tokens of a reply of the whole model (32)")
    parser.add_argument("-c", "--context", type=int, default=8192, help="the baseline's limit, in tokens (8192)")
    parser.add_argument("--rows", type=int, default=0, help="rows of a step (as balance loading and computing)")
    parser.add_argument("--score", type=int, default=256, help="tokens whose perplexity is compared (256)")
    parser.add_argument("--replicas", type=int, default=3, help="sequences with a model each (3)")
    parser.add_argument("--settle", type=int, default=0, metavar="MIB",
                        help="memory that a process takes and gives back before each run (twice the model)")
    parser.add_argument("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="(the cores)")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md", help="on standard output (md)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write the report with all rounds here")
    parser.add_argument("--update", type=pathlib.Path, metavar="PAGE", help="also put the table into a page")
    parser.add_argument("--plots", type=pathlib.Path, metavar="DIR", help="also draw ablation and ablation-gantt here")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release", help="the build (build/release)")
    parser.add_argument("--cache", type=pathlib.Path, default=cache / "bench", help="where synthetic models are kept")
    parser.add_argument("--packed", type=pathlib.Path, default=cache / "packed", help="where packed weights are kept")
    parser.add_argument("--idle-wait", type=float, default=10, metavar="S", help="wait for an idle machine (10)")
    parser.add_argument("--idle-cores", type=float, default=0.15, metavar="N", help="what counts as idle (0.15)")
    options = parser.parse_args()
    if min(options.rounds, options.decode, options.threads, options.replicas) < 1 or options.score < 2:
        parser.error("-r, -n, -t and --replicas must be at least 1, --score at least 2")
    options.build = options.build.resolve()
    for program in ("tropilla", "bench_ablation"):
        if not (options.build / "bin" / program).exists():
            fail(f"{options.build / 'bin' / program} is missing; scripts/build.sh builds it")
    return options


def ablate(bench, options):
    bench.workloads()
    say(f"{bench.title}: steps of {bench.work['streamed'][1]} and {bench.work['managed'][1]} rows")
    rounds = measure(bench, options)
    ppl = perplexities(bench, options)
    whole_memory = median(r["baseline"]["peak_bytes"] for r in rounds["whole"])
    rows = [summarise(rounds[case], case, s, whole_memory, ppl[case][s])
            for case, strategies in STRATEGIES.items() for s in strategies]
    values = {v for by_strategy in ppl.values() for v in by_strategy.values()}
    balance = {r["case"]: {"load": r["prefill_load_s"], "compute": r["prefill_compute_s"]} for r in rows
               if r["case"] in ("streamed", "managed") and r["strategy"] == STRATEGIES[r["case"]][0]}
    sizes = {case: {"rows": work[1], "prompt": work[3], "decode": work[5]} for case, work in bench.work.items()}
    return {"model": bench.path.name, "title": bench.title, "work": sizes, "balance": balance,
            "perplexity": ppl["whole"]["baseline"], "perplexity_same": len(values) == 1,
            "tokens_same": all(same_tokens(r) for r in rounds.values()), "rows": rows, "all_rounds": rounds,
            "spans": {s: spans(bench, s) for s in ("baseline", "all")}}


def main():
    options = parse_arguments()
    report = {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "threads": options.threads,
              "rounds": options.rounds, "context": options.context, "replicas": options.replicas,
              "models": [ablate(bench, options) for bench in open_models(options)]}
    for model in report["models"]:
        if not model["perplexity_same"] or not model["tokens_same"]:
            fail(f"the strategies compute different things on {model['title']}")
    markdown = as_markdown(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.update:
        update_page(options.update, markdown, BEGIN, END)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        draw("ablation_plots.py", report, options.plots)
    print(json.dumps(report, indent=1) if options.output == "json" else markdown, end="")


if __name__ == "__main__":
    main()
