#!/usr/bin/env python3
"""Draws the report of bench/throughput.py as `throughput`.png and .svg: output tok/s and time to first token by rate of
arrivals, and decode tok/s by sequences that are computed together.

    bench/throughput_plots.py REPORT.json FOLDER      needs matplotlib
"""
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

COLOURS = {"ours": "#4c78a8", "peer": "#f58518"}
NAMES = {"ours": "tropilla", "peer": "llama.cpp"}


def rates(report):
    """At once comes last: it is the highest rate."""
    found = sorted({r["rate"] for r in report["load"]}, key=lambda r: r or float("inf"))
    return found, ["at once" if r == 0 else f"{r:g}/s" for r in found]


def bars(axis, report, value, title, low=None):
    """A group of bars by rate; `low` is where the darker part of each ends."""
    places, names = rates(report)
    for shift, who in ((-0.2, "ours"), (0.2, "peer")):
        rows = {r["rate"]: r for r in report["load"] if r["who"] == who}
        for place, rate in enumerate(places):
            if rate not in rows:
                continue
            height = value(rows[rate])
            axis.bar(place + shift, height, 0.38, color=COLOURS[who], alpha=0.45 if low else 1)
            if low:
                axis.bar(place + shift, low(rows[rate]), 0.38, color=COLOURS[who])
            axis.annotate(f"{height:.3g}", (place + shift, height), ha="center", va="bottom", fontsize=7)
    axis.set_xticks(range(len(places)), names)
    axis.set_title(title, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def batch(axis, report):
    rows = report["batch"]
    sequences, speed = [r["sequences"] for r in rows], [r["tok_s"] for r in rows]
    axis.plot(sequences, speed, marker="o", color=COLOURS["ours"])
    axis.plot(sequences, [speed[0] * n for n in sequences], linestyle=":", color="#9aa0a6", linewidth=1)
    high = 1.15 * max(speed)  # where the ideal leaves the picture, nothing else is
    axis.annotate("as many times one ", (high / speed[0], high), fontsize=7, ha="right", va="center")
    for n, s in zip(sequences, speed):
        axis.annotate(f"{s:.0f}", (n, s), fontsize=7, xytext=(0, -9), textcoords="offset points", ha="center")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sequences, sequences)
    axis.set_ylim(0, 1.25 * max(speed))
    axis.set_title(f"decode tok/s by sequences together,\n{report['batch_model']}", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def draw(report, folder):
    wanted = (["speed", "first"] if "load" in report else []) + (["batch"] if "batch" in report else [])
    if not wanted:
        return
    figure, axes = plt.subplots(1, len(wanted), figsize=(4.2 * len(wanted), 3.4), squeeze=False)
    for axis, what in zip(axes[0], wanted):
        if what == "speed":
            bars(axis, report, lambda r: r["tok_s"], f"output tok/s by arrivals,\n{report['count']} requests")
        elif what == "first":
            bars(axis, report, lambda r: r["first"]["99"], "s to the first token by arrivals,\np50 (dark) and p99",
                 lambda r: r["first"]["50"])
        else:
            batch(axis, report)
    if "load" in report:
        known = [w for w in COLOURS if any(r["who"] == w for r in report["load"])]
        figure.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[w]) for w in known], [NAMES[w] for w in known],
                      loc="lower center", ncol=len(known), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"throughput.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None)
    plt.close(figure)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "tropilla"
    draw(json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
