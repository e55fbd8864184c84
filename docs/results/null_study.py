"""Draws the operating curve of null_study.json into null_study.svg: python docs/results/null_study.py

The share of constructs with each verdict, for a respondent with the described traits whose answers are more
or less noise.
"""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
COLORS = {"faithful": "#009E73", "undetermined": "#777777", "not faithful": "#D55E00"}


def main() -> None:
    """Writes the picture."""
    rows = json.loads((HERE / "null_study.json").read_text())["curve"]
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for verdict, color in COLORS.items():
        shares = [row[verdict] / sum(row[kind] for kind in COLORS) for row in rows]
        axis.plot(
            [row["reliability"] for row in rows], shares, "o-", color=color, label=verdict, markersize=4
        )
    axis.set(
        xlabel="reliability of ten items in one condition",
        ylabel="share of constructs",
        xlim=(-0.02, 1),
        ylim=(-0.03, 1.03),
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxmoe"}):
        figure.savefig(HERE / "null_study.svg", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
