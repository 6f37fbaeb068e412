#!/usr/bin/env python3
"""Measures many sequences at once: tropilla (bench_throughput) beside llama.cpp's server (PyPI's xllamacpp), with the very
same requests at the same times.

    bench/throughput.py                                     all of docs/benchmarks.md, "Many sequences"
    bench/throughput.py --json many.json --plots docs --update docs/benchmarks.md
    bench/throughput.py --only load --rates 0 --rounds 1    the requests at once, one pair
    bench/throughput.py -m model.gguf --no-peer             a file of yours, alone

Needs the Release build (scripts/build.sh); for the peer, python3-venv; for plots, matplotlib (scripts/deps.sh --test
installs both). Requests are random token ids with replies of a fixed length, greedy; both stream, with so many slots,
continuous batching and no prompt cache. The two take turns, each in a process of its own that loads, warms up, serves
once and ends. A figure is the median over the rounds. Percentiles are over the requests of a round: of the time to the
first token, and of the mean time from one token to the next.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from compare_peer import Peer, cpu_name, draw, fail, median, run, say, update_page, wait_until_idle

ROOT = pathlib.Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- throughput: begin -->", "<!-- throughput: end -->"
PARTS = ("load", "batch", "prefix", "streams")
PERCENTILES = (50, 95, 99)
WHO = {"ours": "tropilla", "peer": "llama.cpp"}
# What the project aims at.
RATIO_GOAL, BATCH_GOAL, PREFIX_GOAL = 4, 6, 10
MIB = 1 << 20


# -- the peer: this file again, in the environment that has xllamacpp ------------------------------------------------


def peer_worker(job):
    """Serves the requests. Prints what bench_throughput's load prints into job["result"]."""
    import xllamacpp

    requests = json.loads(pathlib.Path(job["requests"]).read_text())
    longest = max(len(r["prompt"]) + r["tokens"] for r in requests)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = job["model"]
    parameters.n_parallel = job["sequences"]
    parameters.n_ctx = job["sequences"] * 256 * -(-(longest + 2) // 256)
    parameters.n_gpu_layers = 0
    parameters.warmup = True
    parameters.cont_batching = True
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = job["threads"]
    for name, value in job["parameters"].items():
        if hasattr(parameters, name):  # versions differ in what they have
            setattr(parameters, name, value)
    server = xllamacpp.Server(parameters)

    def complete(request, record, begin):
        def chunk(answer):
            now = time.monotonic() - begin
            if "choices" not in answer:
                record["failure"] = str(answer)[:300]
            elif answer["choices"][0]["finish_reason"] is None:
                record["times"].append(now)
            else:
                # The last chunk has no token of its own. Of characters that several tokens make, one chunk comes.
                record["tokens"] = answer["usage"]["completion_tokens"]

        record["submitted"] = time.monotonic() - begin
        server.handle_completions({"prompt": request["prompt"], "n_predict": request["tokens"], "stream": True,
                                   "max_tokens": request["tokens"], "temperature": 0, "ignore_eos": True,
                                   "cache_prompt": False}, chunk)

    new = lambda: {"times": [], "failure": "", "tokens": 0}
    complete({"prompt": list(range(5, 261)), "tokens": 8}, new(), time.monotonic())
    records = [new() for _ in requests]
    begin = time.monotonic()
    clients = []
    for request, record in zip(requests, records):
        time.sleep(max(0, request["at"] - (time.monotonic() - begin)))
        clients.append(threading.Thread(target=complete, args=(request, record, begin)))
        clients[-1].start()
    for client in clients:
        client.join()
    wall = time.monotonic() - begin
    pathlib.Path(job["result"]).write_text(json.dumps({"wall_s": wall, "requests": records}))


class Server(Peer):
    def serve(self, options, requests):
        with tempfile.NamedTemporaryFile(suffix=".json") as result:
            job = {"model": str(options.path), "threads": options.threads, "sequences": options.sequences,
                   "requests": str(requests), "parameters": options.peer_parameters, "result": result.name}
            run([self.python, __file__, "--peer-worker", json.dumps(job)], f"the peer on {options.path.name}")
            return json.loads(pathlib.Path(result.name).read_text())


# -- tropilla --------------------------------------------------------------------------------------------------------


class Tropilla:
    def __init__(self, options):
        self.program = options.build / "bin/bench_throughput"
        if not self.program.exists():
            fail(f"{self.program} is missing; scripts/build.sh builds it")
        self.common = ["--threads", options.threads, "--packed", options.packed]

    def run(self, mode, path, *more):
        return json.loads(run([self.program, mode, path, *self.common, *more], f"bench_throughput {mode} on {path.name}"))

    def serve(self, options, requests):
        return self.run("load", options.path, "--sequences", options.sequences, "--requests", requests)


# -- figures ---------------------------------------------------------------------------------------------------------


def percentile(values, p):
    """The least value that p percent of them do not exceed."""
    values = sorted(values)
    return values[max(0, -(-len(values) * p // 100) - 1)]


def figures(answer, requests):
    """Of one round of one engine."""
    for asked, got in zip(requests, answer["requests"], strict=True):
        count = got.get("tokens", len(got["times"]))
        if got["failure"] or count != asked["tokens"]:
            fail(f"a request for {asked['tokens']} tokens got {count} ({got['failure'] or 'no failure said'})")
    first = [r["times"][0] - r["submitted"] for r in answer["requests"]]
    each = [(r["times"][-1] - r["times"][0]) / (len(r["times"]) - 1) for r in answer["requests"] if len(r["times"]) > 1]
    tokens = sum(r["tokens"] for r in requests)
    return {"requests_s": len(requests) / answer["wall_s"], "tok_s": tokens / answer["wall_s"], "wall_s": answer["wall_s"],
            "first": {p: percentile(first, p) for p in PERCENTILES}, "each": {p: percentile(each, p) for p in PERCENTILES},
            "first_all": first, "each_all": each}


def measure_load(options, tropilla, peer):
    """A row by rate and engine."""
    rows = []
    for rate in options.rates:
        with tempfile.NamedTemporaryFile(suffix=".json", mode="w") as file:
            requests = tropilla.run("requests", options.path, "--count", options.count, "--rate", rate,
                                    "--seed", options.seed)
            file.write(json.dumps(requests))
            file.flush()
            rounds = []
            for index in range(options.rounds):
                wait_until_idle(options)
                engines = [("ours", tropilla)] + ([("peer", peer)] if peer else [])
                # Who goes first changes, so that neither always has the warmer or the cooler machine.
                for who, engine in engines if index % 2 == 0 else engines[::-1]:
                    rounds.append((who, figures(engine.serve(options, file.name), requests)))
                    f = rounds[-1][1]
                    say(f"{'at once' if rate == 0 else f'{rate:g}/s'}, round {index + 1} of {options.rounds}: {who} "
                        f"{f['tok_s']:.0f} tok/s, first token p99 {f['first'][99]:.2f} s")
        for who in WHO:
            mine = [f for w, f in rounds if w == who]
            if mine:
                row = {"rate": rate, "who": who, "rounds": len(mine), "output_tokens": sum(r["tokens"] for r in requests)}
                row.update({key: median(f[key] for f in mine) for key in ("requests_s", "tok_s", "wall_s")})
                row.update({key: {p: median(f[key][p] for f in mine) for p in PERCENTILES} for key in ("first", "each")})
                row["tok_s_all"] = [f["tok_s"] for f in mine]
                row["first_all"], row["each_all"] = mine[0]["first_all"], mine[0]["each_all"]
                rows.append(row)
    return rows


def measure(options, peer):
    tropilla = Tropilla(options)
    report = {"date": datetime.date.today().isoformat(), "cpu": cpu_name(), "threads": options.threads,
              "sequences": options.sequences, "count": options.count, "model": options.path.name,
              "peer_version": peer.version if peer else ""}
    if "load" in options.only:
        report["load"] = measure_load(options, tropilla, peer)
    if "batch" in options.only:
        wait_until_idle(options)
        runs = [tropilla.run("batch", options.batch_path, *options.batch_arguments) for _ in range(options.rounds)]
        report["batch"] = [{"sequences": rows[0]["sequences"], "tok_s": median(r["tok_s"] for r in rows),
                            "tok_s_all": [r["tok_s"] for r in rows]} for rows in zip(*(r["rows"] for r in runs))]
        report["batch_model"] = options.batch_path.name
    if "prefix" in options.only:
        wait_until_idle(options)
        found = tropilla.run("prefix", options.path, "--prefix", options.prefix)
        of = lambda key: median(r[key] for r in found["rounds"])
        report["prefix"] = {"tokens": found["prefix"], "first_s": of("first_s"), "second_s": of("second_s"),
                            "reused_tokens": of("reused_tokens"),
                            "ratio": median(r["first_s"] / r["second_s"] for r in found["rounds"])}
    if "streams" in options.only:
        report["streams"] = tropilla.run("streams", options.path, "--count", options.streams)
    return report


# -- what is shown ---------------------------------------------------------------------------------------------------


def pair(report, rate):
    rows = {r["who"]: r for r in report["load"] if r["rate"] == rate}
    return rows["ours"], rows.get("peer")


def verdict(met):
    return "met" if met else "missed"


def as_markdown(report):
    lines = [f"{report['cpu']}, {report['threads']} threads; {report['model']} unless said otherwise"
             + (f"; xllamacpp {report['peer_version']}" if report["peer_version"] else "") + f"; {report['date']}.", ""]
    spread = lambda values: " / ".join(f"{values[p]:.3g}" for p in PERCENTILES)
    if "load" in report:
        lines += [f"{report['count']} requests, {report['load'][0]['output_tokens']} output tokens, "
                  f"{report['sequences']} slots.", "",
                  "| arrivals | rounds | | requests/s | output tok/s | first token, s: p50 / p95 / p99 "
                  "| per output token, ms: p50 / p95 / p99 |", "| --- | ---: | --- | ---: | ---: | ---: | ---: |"]
        for r in report["load"]:
            each = {p: 1e3 * r["each"][p] for p in PERCENTILES}
            lines.append(f"| {'at once' if r['rate'] == 0 else format(r['rate'], 'g') + '/s'} | {r['rounds']} | {WHO[r['who']]} "
                         f"| {r['requests_s']:.2f} | {r['tok_s']:.0f} | {spread(r['first'])} | {spread(each)} |")
        lines.append("")
    goals = []
    if "load" in report:
        for rate in dict.fromkeys(r["rate"] for r in report["load"]):
            ours, theirs = pair(report, rate)
            if theirs and rate == 0:
                ratio = ours["tok_s"] / theirs["tok_s"]
                goals.append(("output tok/s, at once, beside llama.cpp", f"{ratio:.1f}x",
                              f"{RATIO_GOAL}x {verdict(ratio >= RATIO_GOAL)}"))
            if theirs:
                goals.append((f"first token, p99, {'at once' if rate == 0 else f'{rate:g}/s'}, beside llama.cpp",
                              f"{ours['first'][99]:.2f} s, {theirs['first'][99]:.2f} s",
                              f"less {verdict(ours['first'][99] < theirs['first'][99])}"))
    if "batch" in report:
        one = report["batch"][0]["tok_s"]
        for r in report["batch"]:
            goal = f"{BATCH_GOAL}x {verdict(r['tok_s'] / one >= BATCH_GOAL)}" if r["sequences"] == 16 else ""
            goals.append((f"decode of {r['sequences']} together, {report['batch_model']}",
                          f"{r['tok_s']:.1f} tok/s, {r['tok_s'] / one:.1f}x", goal))
    if "prefix" in report:
        p = report["prefix"]
        goals.append((f"first token, prefix of {p['tokens']} tokens: first request, second",
                      f"{1e3 * p['first_s']:.0f} ms, {1e3 * p['second_s']:.1f} ms: {p['ratio']:.0f}x",
                      f"{PREFIX_GOAL}x {verdict(p['ratio'] >= PREFIX_GOAL)}"))
    if "streams" in report:
        s = report["streams"]
        goals.append((f"{s['streams']} streams, pages for {s['streams_with_pages']}: ended, wrong of {s['sampled']} looked at, "
                      "peak of planned MiB", f"{s['endings']}, {s['different']}, {s['peak_bytes'] / MIB:.1f} of "
                      f"{s['planned_bytes'] / MIB:.1f} ({s['wall_s']:.1f} s)", f"all right {verdict(s['failed'] == 0)}"))
    if goals:
        lines += ["| | | goal |", "| --- | ---: | --- |"] + [f"| {' | '.join(g)} |" for g in goals]
    return "\n".join(lines) + "\n"


def parse_arguments():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tropilla"
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    add = parser.add_argument
    add("--peer-worker", help=argparse.SUPPRESS)
    add("-m", "--model", type=pathlib.Path, help="a file instead of SmolLM2, and of the 1B shape")
    add("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)} (all)")
    add("--rates", default="0,0.5,2", help="arrivals per second; 0: at once (0,0.5,2)")
    add("--count", type=int, default=64, help="requests (64)")
    add("--seed", type=int, default=1, help="of the requests (1)")
    add("--sequences", type=int, default=16, help="computed together; the peer's slots (16)")
    add("--streams", type=int, default=1000, help="streams at once with pages for 50 (1000)")
    add("--prefix", type=int, default=1024, help="tokens of the shared prefix (1024)")
    add("--batch-tokens", type=int, default=48, help="of each reply of the part batch (48)")
    add("-r", "--rounds", type=int, default=3, help="rounds (3)")
    add("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both (the cores)")
    add("--no-peer", action="store_true", help="measure tropilla alone")
    add("--peer-parameters", type=json.loads, default={}, metavar="JSON", help="more of xllamacpp's CommonParams")
    add("-o", "--output", choices=["md", "json"], default="md", help="on standard output (md)")
    add("--json", type=pathlib.Path, metavar="FILE", help="also write the report here")
    add("--plots", type=pathlib.Path, metavar="FOLDER", help="draw throughput.svg there, and throughput-dark.svg")
    add("--update", type=pathlib.Path, metavar="PAGE", help="also put the table into a page")
    add("--build", type=pathlib.Path, default=ROOT / "build/release", help="the build (build/release)")
    add("--venv", type=pathlib.Path, metavar="DIR", help="keep the peer's environment (a temporary one)")
    add("--packed", type=pathlib.Path, default=cache / "packed", help=f"packed weights ({cache / 'packed'})")
    add("--cache", type=pathlib.Path, default=cache / "bench", help=f"where the 1B shape is kept ({cache / 'bench'})")
    add("--idle-wait", type=float, default=60, metavar="S", help="wait for an idle machine (60)")
    add("--idle-cores", type=float, default=0.1, metavar="N", help="what counts as idle (0.1)")
    options = parser.parse_args()
    if options.peer_worker:
        return options
    options.only = options.only.split(",")
    if set(options.only) - set(PARTS):
        parser.error(f"--only takes {','.join(PARTS)}")
    options.rates = [float(r) for r in options.rates.split(",")]
    if min(options.count, options.sequences, options.rounds, options.threads, options.streams) < 1 or min(options.rates) < 0:
        parser.error("counts must be at least 1, rates not negative")
    options.build = options.build.resolve()
    options.batch_arguments = ["--tokens", options.batch_tokens]
    return options


def find_models(options):
    options.path = options.model or pathlib.Path(run([ROOT / "scripts/model.sh"], "scripts/model.sh").strip())
    options.batch_path = options.model or options.cache / "llama-3.2-1b-Q4_0.gguf"
    if "batch" in options.only and not options.batch_path.exists():
        options.cache.mkdir(parents=True, exist_ok=True)
        say(f"writing {options.batch_path} (once)")
        run([options.build / "bin/tropilla", "synth", "-q", "--shape", "llama-3.2-1b", "--type", "Q4_0",
             "-o", options.batch_path], "tropilla synth")


def main():
    options = parse_arguments()
    if options.peer_worker:
        peer_worker(json.loads(options.peer_worker))
        return
    find_models(options)
    with tempfile.TemporaryDirectory(prefix="tropilla-peer-") as throw_away:
        wanted = "load" in options.only and not options.no_peer
        peer = Server((options.venv or pathlib.Path(throw_away)).absolute()) if wanted else None
        report = measure(options, peer)
    markdown = as_markdown(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.update:
        update_page(options.update, markdown, BEGIN, END)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        draw("throughput_plots.py", report, options.plots)
    print(json.dumps(report, indent=1) if options.output == "json" else markdown, end="")


if __name__ == "__main__":
    main()
