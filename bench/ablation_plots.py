#!/usr/bin/env python3
"""Draws the report of bench/ablation.py: `ablation` (bars: memory and time of each strategy) and `ablation-gantt` (when
weights are read and when they are computed with, before and after), as PNG and SVG.

    bench/ablation_plots.py REPORT.json FOLDER      needs matplotlib
"""
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

COLOURS = {"baseline": "#9aa0a6", "memory": "#4c78a8", "loading": "#f58518", "sharing": "#54a24b",
           "together": "#e45756", "all": "#b279a2"}
NAMES = {"baseline": "baseline", "memory": "memory management", "loading": "asynchronous loading", "sharing": "sharing",
         "together": "both", "all": "all: the runtime"}
CASES = {"managed": "streamed,\nmemory managed"}
MIB = 1 << 20


def save(figure, folder, name):
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None)
    plt.close(figure)


def label(axis, x, top, text):
    axis.annotate(text, (x, top), ha="center", va="bottom", fontsize=7, xytext=(0, 1), textcoords="offset points")


def bars(report, folder):
    """A row per model; memory on the left, time on the right, each as a share of the case's first."""
    models = report["models"]
    figure, axes = plt.subplots(len(models), 2, figsize=(10, 2.9 * len(models) + 0.5), squeeze=False)
    shown = []
    for line, model in zip(axes, models):
        cases = list(dict.fromkeys(r["case"] for r in model["rows"]))
        for axis, what in zip(line, ("memory", "time")):
            place, ticks = 0.0, []
            for case in cases:
                rows = [r for r in model["rows"] if r["case"] == case]
                ticks.append(place + (len(rows) - 1) / 2)
                for r in rows:
                    height = 1 + r[f"{what}_change"]
                    low, high = (1 + c for c in r[f"{what}_change_range"])
                    axis.bar(place, height, width=0.9, color=COLOURS[r["strategy"]])
                    if r is not rows[0] and what == "time":
                        axis.errorbar(place, height, yerr=[[height - low], [high - height]], color="#333333",
                                      capsize=2, linewidth=0.8)
                    value = f"{r['peak_bytes'] / MIB:.0f}" if what == "memory" else f"{r['elapsed_s']:.2f}"
                    label(axis, place, max(height, high if what == "time" else 0), value)
                    shown.append(r["strategy"])
                    place += 1
                place += 0.8
            axis.set_xticks(ticks, [f"{report['replicas']} replicas" if c == "replicas" else CASES.get(c, c) for c in cases])
            axis.set_ylim(0, max(1.25, axis.get_ylim()[1] * 1.05))
            axis.axhline(1, color="#cccccc", linewidth=0.8, zorder=0)
            axis.set_ylabel("of the first of each")
            axis.set_title(f"{model['title']}: " + ("peak memory, MiB" if what == "memory" else "time, s"), fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    known = [s for s in COLOURS if s in shown]
    figure.legend([plt.Rectangle((0, 0), 1, 1, color=COLOURS[s]) for s in known], [NAMES[s] for s in known],
                  loc="lower center", ncol=len(known), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    save(figure, folder, "ablation")


def first_token(spans, work):
    """When the last step of the prompt ended. A step's first group is before the last one of the step before."""
    left, before, end = -(-work["prompt"] // work["rows"]), None, 0.0
    for _, group, begin, seconds in (s for s in spans if s[0] == "compute"):
        if before is not None and group <= before:
            left -= 1
            if left == 0:
                break
        before, end = group, begin + seconds
    return end


def gantt(report, folder):
    """The last model's prompt: reading and computing, the baseline above the runtime, on one scale of time."""
    model = report["models"][-1]
    figure, axes = plt.subplots(2, 1, figsize=(10, 3.4), sharex=True, layout="constrained")
    ends = []
    for axis, (strategy, title) in zip(axes, (("baseline", "before: read, wait, compute"),
                                             ("all", "after: the runtime reads ahead"))):
        spans = model["spans"][strategy]
        begin = min(s[2] for s in spans)
        for row, (kind, colour) in enumerate((("compute", "#4c78a8"), ("load", "#f58518"))):
            pieces = [((s[2] - begin) * 1e3, s[3] * 1e3) for s in spans if s[0] == kind]
            axis.broken_barh(pieces, (row - 0.38, 0.76), color=colour, edgecolor="white", linewidth=0.3)
        ends.append(1e3 * (first_token(spans, model["work"]["streamed"]) - begin))
        axis.axvline(ends[-1], color="#333333", linewidth=0.8, linestyle=":")
        axis.annotate(f"first token: {ends[-1]:.0f} ms", (ends[-1], 1.38), xytext=(0, 4), textcoords="offset points",
                      fontsize=8, ha="right")
        axis.set_yticks([0, 1], ["compute", "load"])
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(0, max(ends) * 1.08)
    axes[1].set_xlabel(f"ms; {model['title']}, streamed, a prompt of {model['work']['streamed']['prompt']} tokens in steps "
                       f"of {model['work']['streamed']['rows']}")
    save(figure, folder, "ablation-gantt")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    plt.rcParams["svg.fonttype"] = "none"
    plt.rcParams["svg.hashsalt"] = "tropilla"
    report = json.loads(pathlib.Path(sys.argv[1]).read_text())
    folder = pathlib.Path(sys.argv[2])
    bars(report, folder)
    gantt(report, folder)


if __name__ == "__main__":
    main()
