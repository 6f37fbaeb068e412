"""How the pictures of the documentation look: as wide as a README's column, legible there, for light pages and dark ones.

A picture is an SVG of 860 points without a background, so that a point is a pixel and text has the size that it is given;
NAME.svg is for light pages, NAME-dark.svg for dark ones.
"""
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  the backend comes first

WIDTH = 860  # points
TEXT = 12
THEMES = {
    "": {"ink": "#1f2328", "faint": "#d1d9e0", "ours": "#1a7f37", "peer": "#bc4c00", "one": "#0969da", "base": "#818b98"},
    "-dark": {"ink": "#f0f6fc", "faint": "#3d444d", "ours": "#3fb950", "peer": "#f0883e", "one": "#58a6ff",
              "base": "#9198a1"},
}


def figure(height, **subplots):
    """A figure of the documentation's width, and its axes."""
    return plt.subplots(figsize=(WIDTH / 72, height / 72), layout="constrained", **subplots)


def draw_all(folder, name, draw):
    """Saves what `draw(theme)` returns, once for each theme."""
    for suffix, theme in THEMES.items():
        plt.rcParams.update({
            "svg.fonttype": "none", "svg.hashsalt": "tropilla", "font.size": TEXT, "axes.titlesize": TEXT,
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
            "text.color": theme["ink"], "axes.labelcolor": theme["ink"], "axes.titlecolor": theme["ink"],
            "xtick.color": theme["ink"], "ytick.color": theme["ink"], "axes.edgecolor": theme["ink"],
            "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
        picture = draw(theme)
        picture.savefig(pathlib.Path(folder) / f"{name}{suffix}.svg", transparent=True, metadata={"Date": None})
        plt.close(picture)


def arguments(usage):
    """The report and the folder of `SCRIPT REPORT.json FOLDER`."""
    if len(sys.argv) != 3:
        sys.exit(usage)
    return json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
