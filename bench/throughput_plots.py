#!/usr/bin/env python3
"""Draws the report of bench/throughput.py as `throughput`: output and the wait for the first token by how requests arrive,
and the output of replies that are computed together; for light pages and for dark ones.

    bench/throughput_plots.py REPORT.json FOLDER      needs matplotlib

bench/data/throughput.json is what the picture needs of the report behind docs/benchmarks.md.
"""
from plot_style import arguments, draw_all, figure

NAMES = {"ours": "tropilla", "peer": "llama.cpp"}
SHIFTS = {"ours": -0.2, "peer": 0.2}


def by_arrivals(axis, report, names):
    """Ticks for the rates; at once comes last, for it is the highest. The rows of each peer, by place."""
    rates = sorted({r["rate"] for r in report["load"]}, key=lambda r: r or float("inf"))
    labels = ["all at once" if r == 0 else f"{r:g} a second" if r >= 1 else f"every {1 / r:g} s" for r in rates]
    axis.set_xticks(range(len(rates)), labels)
    axis.set_xlabel(f"how {report['count']} requests arrive")
    return [(who, rates.index(r["rate"]) + SHIFTS[who], r) for who in names for r in report["load"] if r["who"] == who]


def output(axis, report, names, theme):
    for who, place, row in by_arrivals(axis, report, names):
        axis.bar(place, row["tok_s"], 0.38, color=theme[who])
        axis.annotate(f"{row['tok_s']:.0f}", (place, row["tok_s"]), ha="center", va="bottom")
    axis.set_title("Output,\ntokens a second", loc="left")


def waiting(axis, report, names, theme):
    for who, place, row in by_arrivals(axis, report, names):
        half, worst = row["first"]["50"], row["first"]["99"]
        axis.plot([place, place], [half, worst], color=theme[who], linewidth=5, alpha=0.5, solid_capstyle="butt")
        axis.plot([place], [half], "o", color=theme[who], markersize=7)
        axis.plot([place], [worst], "_", color=theme[who], markersize=14, markeredgewidth=3)
        axis.annotate(f"{worst:.2g} s", (place, worst), xytext=(0, 6), textcoords="offset points", ha="center")
    axis.set_yscale("log")
    axis.set_xlim(-0.6, axis.get_xticks()[-1] + 0.6)
    axis.set_ylim(0.03, 200)
    axis.set_yticks([0.1, 1, 10, 100], ["0.1 s", "1 s", "10 s", "100 s"])
    axis.set_title("Wait for the first token:\n● half of them, ▬ 99 of 100", loc="left")


def together(axis, report, theme):
    rows = report["batch"]
    sequences, speed = [r["sequences"] for r in rows], [r["tok_s"] for r in rows]
    high = 1.3 * max(speed)
    axis.plot(sequences, [speed[0] * n for n in sequences], linestyle=":", color=theme["base"], linewidth=1.5)
    axis.annotate("if each were as\nfast as one alone", (high / speed[0], high), xytext=(-8, -2), va="top", ha="right",
                  textcoords="offset points")
    axis.plot(sequences, speed, marker="o", color=theme["ours"])
    for n, s in zip(sequences, speed):
        axis.annotate(f"{s:.3g}", (n, s), xytext=(2, -15), textcoords="offset points", ha="center")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sequences, sequences)
    axis.minorticks_off()
    axis.set_xlim(0.8, max(sequences) * 1.4)
    axis.set_ylim(0, high)
    axis.set_xlabel("replies computed together")
    axis.set_title(f"Output, tokens a second\n({report['batch_model'].removesuffix('.gguf')})", loc="left")


def draw(report, theme):
    wanted = (["speed", "first"] if "load" in report else []) + (["batch"] if "batch" in report else [])
    picture, axes = figure(270, ncols=len(wanted), squeeze=False)
    names = [w for w in NAMES if any(r["who"] == w for r in report.get("load", []))]
    for axis, what in zip(axes[0], wanted):
        if what == "batch":
            together(axis, report, theme)
        else:
            (output if what == "speed" else waiting)(axis, report, names, theme)
    if names:
        handles = [axes[0][0].bar(0, 0, color=theme[w]) for w in names]
        axes[0][0].legend(handles, [NAMES[w] for w in names], loc="upper left")
    return picture


def main():
    report, folder = arguments(__doc__)
    if "load" in report or "batch" in report:
        draw_all(folder, "throughput", lambda theme: draw(report, theme))


if __name__ == "__main__":
    main()
