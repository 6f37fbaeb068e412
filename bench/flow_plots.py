#!/usr/bin/env python3
"""Draws the report of `bench_throughput flow` as `memory-flow`: bytes by purpose over time, above tokens per second of each
phase; for light pages and for dark ones.

    build/release/bin/bench_throughput flow MODEL --budget-mib 125 --kv-tokens 4096 --phases 1,16,1 > flow.json
    bench/flow_plots.py flow.json FOLDER      needs matplotlib
"""
from plot_style import arguments, draw_all, figure

MIB = 1 << 20
MAX_SAMPLES = 300
# From the bottom up, with the shade of each: what moves lies at the top.
PURPOSES = [("requests", 0.25), ("staging", 0.4), ("workspace", 0.55), ("activations", 0.7), ("weights", None),
            ("streaming ring", None), ("KV pages", None)]
COLOURS = {"weights": "ours", "streaming ring": "peer", "KV pages": "one"}


def draw(report, theme):
    picture, axis = figure(300)
    first = report["memory"][0]["device"]
    samples = [s for s in report["memory"] if s["device"] == first]
    samples = samples[::max(len(samples) // MAX_SAMPLES, 1)]
    # Between two changes the first and the last are enough.
    samples = [s for i, s in enumerate(samples) if i in (0, len(samples) - 1) or
               not samples[i - 1]["purposes"] == s["purposes"] == samples[i + 1]["purposes"]]
    times = [s["at"] for s in samples]
    layers = [[s["purposes"].get(name, 0) / MIB for s in samples] for name, _ in PURPOSES]
    areas = axis.stackplot(times, layers, linewidth=0)
    for area, (name, alpha) in zip(areas, PURPOSES):
        area.set_facecolor(theme[COLOURS.get(name, "base")])
        area.set_alpha(alpha or 0.85)
    device = report["devices"][0]
    budget = device["budget_bytes"] / MIB
    axis.axhline(budget, color=theme["ink"], linewidth=1, linestyle=":")
    axis.annotate(f"budget {budget:.0f} MiB", (times[0], budget), xytext=(2, 3), textcoords="offset points")
    for phase in report["phases"]:
        middle = (phase["begin"] + phase["end"]) / 2
        axis.axvline(phase["end"], color=theme["faint"], linewidth=1)
        streams = f"{phase['streams']} stream" + ("s" if phase["streams"] > 1 else "")
        axis.annotate(f"{streams}\n{phase['tok_s']:.0f} tok/s", (middle, budget * 1.05), ha="center", va="bottom")
    axis.set_ylim(0, budget * 1.3)
    axis.set_xlim(0, times[-1])
    axis.set_xlabel("seconds")
    axis.set_ylabel("MiB in use")
    axis.legend(areas[::-1], [name for name, _ in PURPOSES][::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    return picture


def main():
    report, folder = arguments(__doc__)
    draw_all(folder, "memory-flow", lambda theme: draw(report, theme))


if __name__ == "__main__":
    main()
