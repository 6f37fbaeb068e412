#!/usr/bin/env python3
"""Draws the report of bench/ablation.py: `ablation` (memory and time of each strategy) and `ablation-gantt` (when weights
are read and when they are computed with, before and after), each for light pages and for dark ones.

    bench/ablation_plots.py REPORT.json FOLDER      needs matplotlib

bench/data/ablation.json is what the pictures need of the report behind docs/ablation.md.
"""
from plot_style import arguments, draw_all, figure

# What the pictures show of the report: the cases, and how their rows are called.
CASES = {"whole": "All weights in memory", "streamed": "Weights streamed from the disk", "replicas": "{} replicas of the model"}
NAMES = {"baseline": "a straightforward program", "memory": "memory management alone", "loading": "asynchronous loading alone",
         "sharing": "sharing alone", "all": "tropilla: all of them"}
COLOURS = {"baseline": "base", "all": "ours"}  # others are one strategy
MIB = 1 << 20


def bars(report, theme):
    """A line for each case and strategy; a column for each model's memory and time, as shares of the case's baseline."""
    models = report["models"]
    lines = []  # (place, case, strategy), downwards
    headings = []
    place = 0.0
    for case, title in CASES.items():
        headings.append((place, title.format(report["replicas"])))
        for row in (r for r in models[0]["rows"] if r["case"] == case):
            place += 1
            lines.append((place, case, row["strategy"]))
        place += 1.5
    picture, axes = figure(36 + 21 * place, ncols=2 * len(models), sharey=True)
    columns = [(m, what) for what in ("memory", "time") for m in models]
    for axis, (model, what) in zip(axes, columns):
        rows = {(r["case"], r["strategy"]): r for r in model["rows"]}
        for at, case, strategy in lines:
            row = rows[case, strategy]
            share = 1 + row[f"{what}_change"]
            axis.barh(at, share, height=0.78, color=theme[COLOURS.get(strategy, "one")])
            end = share
            if what == "time" and strategy != "baseline":
                low, high = (1 + c for c in row["time_change_range"])
                axis.plot([low, high], [at, at], color=theme["ink"], linewidth=1)
                end = max(share, high)
            value = f"{row['peak_bytes'] / MIB:,.0f}" if what == "memory" else f"{row['elapsed_s']:.2f}"
            axis.annotate(value, (end, at), xytext=(4, 0), textcoords="offset points", va="center")
        axis.axvline(1, color=theme["faint"], linewidth=1, zorder=0)
        axis.set_title(f"{'Most memory, MiB' if what == 'memory' else 'Time, seconds'}\n{model['title']}")
        axis.set_xlim(0, 1.4 if what == "memory" else 1.9)
        axis.set_xticks([])
        axis.spines[["bottom"]].set_visible(False)
        axis.tick_params(length=0)
    axes[0].set_ylim(place - 1, -0.7)
    axes[0].set_yticks([at for at, _, _ in lines] + [at for at, _ in headings],
                       [NAMES[s] for _, _, s in lines] + [title for _, title in headings])
    for text in axes[0].get_yticklabels()[len(lines):]:
        text.set_fontweight("bold")
    return picture


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


def gantt(report, theme):
    """The last model's prompt: reading and computing, the baseline above the runtime, on one scale of time."""
    model = report["models"][-1]
    work = model["work"]["streamed"]
    picture, axes = figure(250, nrows=2, sharex=True)
    shown = (("baseline", "A straightforward program reads a layer, waits, and computes it"),
             ("all", "tropilla reads the next layers while it computes"))
    begins = {s: min(span[2] for span in model["spans"][s]) for s, _ in shown}
    ends = {s: first_token(model["spans"][s], work) - begins[s] for s, _ in shown}
    limit = max(ends.values()) * 1.08
    for axis, (strategy, title) in zip(axes, shown):
        for row, (kind, colour) in enumerate((("compute", "ours"), ("load", "peer"))):
            pieces = [(s[2] - begins[strategy], s[3]) for s in model["spans"][strategy]
                      if s[0] == kind and s[2] - begins[strategy] < limit]
            axis.broken_barh(pieces, (row - 0.38, 0.76), color=theme[colour], edgecolor="none")
        axis.axvline(ends[strategy], color=theme["ink"], linewidth=1.2, linestyle=":")
        left = ends[strategy] < limit / 2  # the title is there
        axis.annotate(f"first token after {ends[strategy]:.2f} s", (ends[strategy], 1.5), xytext=(4 if left else -4, 3),
                      textcoords="offset points", ha="left" if left else "right")
        axis.set_yticks([0, 1], ["computes", "reads the disk"])
        axis.set_ylim(-0.55, 1.5)
        axis.set_title(title, loc="left", pad=6)
    axes[0].set_xlim(0, limit)
    axes[1].set_xlabel(f"seconds since the first read ({model['title']}; a prompt of {work['prompt']} tokens in steps of "
                       f"{work['rows']}; each step passes over all weights)")
    return picture


def main():
    report, folder = arguments(__doc__)
    draw_all(folder, "ablation", lambda theme: bars(report, theme))
    draw_all(folder, "ablation-gantt", lambda theme: gantt(report, theme))


if __name__ == "__main__":
    main()
