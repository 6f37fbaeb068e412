#!/usr/bin/env python3
"""Puts together what scripts/gpu_check.sh left: gpu_results.json and, for people, gpu_results.md.

    gpu_report.py LOGS COMMIT FOLDER

Needs nothing but Python. Every figure stands beside its goal; a cell of what was not measured stays empty.
"""
import datetime
import json
import pathlib
import re
import sys

SHAPE = "llama-3-8b"
LAYER_PARAMETERS = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)  # of the layers' matrices
TYPES = ("BF16", "Q8_0", "Q4_0")


def read_text(path):
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_json(path):
    """The file's value; of several in a row, one a line, the last that is whole."""
    text = read_text(path)
    for candidate in [text, *reversed(text.splitlines())]:
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return None


def share(part, whole):
    return part / whole if part is not None and whole else None


def product(*factors):
    out = 1
    for f in factors:
        if not f:
            return None
        out *= f
    return out


def collect(logs, commit):
    status = dict(line.rsplit(" ", 1) for line in read_text(logs / "status").splitlines())
    out = {"date": datetime.date.today().isoformat(), "commit": commit,
           "status": {name: int(value) for name, value in sorted(status.items())}, "models": {}, "tests": {}}
    for name in ("devices", "limits", "pool", "peers"):
        out[name] = read_json(logs / f"{name}.out")
    for type_ in TYPES:
        parts = {kind: read_json(logs / f"{kind}-{type_}.out") for kind in ("bench", "apart", "batch", "streamed")}
        out["models"][type_] = {kind: value for kind, value in parts.items() if value}
    for name, value in re.findall(r"^measured: (\w+) (\S+)$", read_text(logs / "tests.out"), re.MULTILINE):
        out["tests"][name] = max(float(value), out["tests"].get(name, 0))  # the worst
    out["failures"] = {name: (read_text(logs / f"{name}.err") + read_text(logs / f"{name}.out"))[-2000:]
                       for name, value in out["status"].items() if value != 0}
    return out


class Figures:
    """What the results say, or None."""

    def __init__(self, results):
        self.results = results
        limits = results.get("limits") or {}
        self.read, self.up, self.peak = (
            limits.get(k) for k in ("read_bytes_s", "host_to_device_bytes_s", "bf16_operations_s"))

    def test(self, type_, part, name, key="tok_s"):
        """Of one of the tests of `tropilla bench -o json`."""
        for t in self.results["models"].get(type_, {}).get(part) or []:
            if t.get("test") == name:
                return t.get(key)
        return None

    def together(self, type_, sequences):
        rows = (self.results["models"].get(type_, {}).get("batch") or {}).get("rows", [])
        return next((r["tok_s"] for r in rows if r["sequences"] == sequences), None)

    def peer(self, who, name):
        return ((self.results.get("peers") or {}).get(who) or {}).get(name)

    def decode_share(self, type_):
        return share(product(self.test(type_, "bench", "tg64"), self.test(type_, "bench", "tg64", "weight_bytes")),
                     self.read)

    def prefill_share(self, type_):
        return share(product(self.test(type_, "bench", "pp2048"), 2 * LAYER_PARAMETERS), self.peak)

    def stream_share(self, type_):
        return share(product(self.test(type_, "streamed", "tg8"),
                             self.test(type_, "streamed", "tg8", "streamed_bytes")), self.up)

    def pool_share(self):
        ns = {r["name"]: r["at_once"]["median_ns"] for r in self.results.get("pool") or []}
        return share(ns.get("pool"), ns.get("cudaMallocAsync"))

    def goals(self):
        """(figure, goal, comparison, value, form), the value None where it was not measured."""
        f = self
        least, most = ("at least", lambda v, g: v >= g), ("at most", lambda v, g: v <= g)
        percent, times, number = "{:.1%}", "{:.2f}x", "{:.2g}"
        for type_, decode, prefill in (("BF16", 0.8, 0.6), ("Q8_0", 0.7, 0.45), ("Q4_0", 0.7, 0.45)):
            yield f"{type_}: decode, of the read bandwidth", decode, least, f.decode_share(type_), percent
            yield (f"{type_}: 32 together, of one alone", 12, least,
                   share(f.together(type_, 32), f.together(type_, 1)), times)
            yield f"{type_}: prefill, of cuBLAS's peak in bf16", prefill, least, f.prefill_share(type_), percent
        yield ("BF16: decode, of transformers'", 1.5, least,
               share(f.test("BF16", "bench", "tg64"), f.peer("transformers", "decode_tok_s")), times)
        yield ("BF16: prefill, of transformers'", 1.0, least,
               share(f.test("BF16", "bench", "pp2048"), f.peer("transformers", "prefill_tok_s")), times)
        for type_ in ("BF16", "Q4_0"):
            yield (f"{type_}: streamed, of the bandwidth from pinned memory", 0.92, least, f.stream_share(type_),
                   percent)
            yield f"{type_}: streamed, overlap", 0.95, least, f.test(type_, "streamed", "tg8", "overlap"), "{:.3f}"
        yield ("BF16: streamed, of accelerate's cpu_offload", 3, least,
               share(f.test("BF16", "streamed", "tg8"), f.peer("offload", "decode_tok_s")), times)
        yield "allocate and free, of cudaMallocAsync's", 0.1, most, f.pool_share(), percent
        tests = self.results.get("tests", {})
        yield "CUDA allocations per token, once warm", 0, most, tests.get("allocations_per_token"), number
        yield "KL divergence from the host's logits", 1e-3, most, tests.get("kl"), number
        yield ("greedy tokens that differ from the host's, but for ties within 0.1 nats", 0, most,
               tests.get("greedy_tokens_that_differ"), "{:.0f}")


def cell(value, form="{:.1f}"):
    return "" if value is None else form.format(value)


def goal_rows(results):
    out = []
    for name, goal, (word, met), value, form in Figures(results).goals():
        wanted = f"{goal:.0%}" if form.endswith("%}") else f"{goal:g}{'x' * form.endswith('x')}"
        out.append({"figure": name, "goal": f"{word} {wanted}", "value": value, "shown": cell(value, form),
                    "met": None if value is None else bool(met(value, goal))})
    return out


def headline(results):
    limits = results.get("limits")
    if not limits:
        return "Nothing has been measured yet."
    f = Figures(results)
    peak = f"{f.peak / 1e12:.0f} TFLOP/s of cuBLAS in bf16" if f.peak else "cuBLAS was not found, so there is no peak"
    return (f"{limits.get('device', 'a GPU')}, commit {results['commit']}, {results['date']}. Limits of this run: "
            f"{cell(share(f.read, 1e9), '{:.0f}')} GB/s read, {cell(share(f.up, 1e9))} GB/s from pinned memory, {peak}.")


def table(results):
    f = Figures(results)
    lines = [headline(results), "", "| Figure | Goal | Measured | Met |", "| --- | --- | ---: | --- |"]
    for row in goal_rows(results):
        lines.append(f"| {row['figure']} | {row['goal']} | {row['shown']} | "
                     f"{ {None: '', True: 'yes', False: 'no'}[row['met']] } |")
    lines += ["", f"| {SHAPE}, tok/s | pp2048 | tg64 | 32 together | streamed tg8 |",
              "| --- | ---: | ---: | ---: | ---: |"]
    for type_ in TYPES:
        speeds = (f.test(type_, "bench", "pp2048"), f.test(type_, "bench", "tg64"), f.together(type_, 32),
                  f.test(type_, "streamed", "tg8"))
        lines.append(f"| {type_} | {' | '.join(cell(s) for s in speeds)} |")
    lines.append(f"| transformers, bf16 | {cell(f.peer('transformers', 'prefill_tok_s'))} | "
                 f"{cell(f.peer('transformers', 'decode_tok_s'))} | | |")
    lines.append(f"| accelerate's cpu_offload, bf16 | | | | {cell(f.peer('offload', 'decode_tok_s'), '{:.2f}')} |")
    peers = results.get("peers") or {}
    if ways := (peers.get("transformers") or {}).get("ways"):
        best = (f"{part}: {max(ways, key=lambda way: ways[way][f'{part}_tok_s'])}" for part in ("prefill", "decode"))
        lines += ["", f"transformers was fastest with {', '.join(best)}."]
    problems = peers.get("problems", [])
    failed = {name: value for name, value in results["status"].items() if value != 0}
    if failed:
        lines += ["", "Failed, or out of time: " + ", ".join(f"{n} ({v})" for n, v in failed.items()) + "."]
    if problems:
        lines += ["", "Not measured of the others:", ""] + [f"- {' '.join(p.split())}" for p in problems]
    return "\n".join(re.sub(r"  +\|", " |", line) for line in lines) + "\n"


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    logs, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])
    results = collect(logs, sys.argv[2])
    results["goals"] = goal_rows(results)
    (folder / "gpu_results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "gpu_results.md").write_text(table(results))


if __name__ == "__main__":
    main()
