"""The original task under shifts along alpha: under corruptions together, and under each natural shift."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.patching_points import (
    Look,
    axis_label,
    grid,
    legend,
    looks,
    mark_ends,
    mean_over_seeds,
    panel_title,
    points,
    shifts_of,
)
from edit_robust.figures.vision.patching_shifts import wants

__all__ = ["CAPTION", "NAME", "TITLE", "draw", "wants"]

NAME = "patching-alpha"
TITLE = "Patching: out-of-distribution accuracy along alpha"
CAPTION = (
    "Up: accuracy on shifted images of the original task, a row a shift: the mean over all corruptions (figure 5 of "
    "the vision paper), and each natural shift, where renditions stand for ImageNet-R (figure 6). Right: alpha, from "
    "the unedited weights (0, star) to the fine-tuned ones (1, large dot). Coloured where a single layer was trained, "
    "black where the whole image tower was. Means over seeds; bands go from the lowest to the highest seed, from four "
    "seeds on they are 95 % intervals of the mean. A column a task. At one alpha a single layer has learnt less than "
    "the whole tower: which is the better bargain, the figure of shifts against the taught task tells."
)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A row a shift, a column a task, a curve a place."""
    table = points(runs)
    shifts = shifts_of(table)
    shifts = [*shifts[-1:], *shifts[:-1]]  # corruptions first
    figure, axes, panels = grid(TITLE, table, len(shifts), height=2.7)
    if not shifts:
        return figure
    drawn = looks(table)
    for i, shift in enumerate(shifts):
        for j, panel in enumerate(panels):
            ax, rows = axes[i][j], table[(table.panel == panel) & (table.kind == shift)]
            for place, look in drawn.items():
                banded(ax, rows[rows.place == place], look)
            if style.empty(ax):
                continue
            for place, look in drawn.items():
                mark_ends(ax, mean_over_seeds(rows[rows.place == place]), "alpha", "accuracy", look)
            if i == 0:
                ax.set_title(panel_title(panel, rows), fontsize=10)
            if j == 0:
                ax.set_ylabel(axis_label(shift, rows.n.max()), fontsize=9)
            ax.set_xlabel("alpha")
            ax.yaxis.set_major_locator(MaxNLocator(5))
            ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    legend(figure, drawn)
    return figure


def banded(ax: Axes, rows: pd.DataFrame, look: Look) -> None:
    """The mean over runs against alpha, with its band."""
    curves = [one.groupby("alpha").accuracy.mean().astype(float) for _, one in rows.groupby("run")]
    curve = style.combine(curves)
    style.line(
        ax, curve, look.color, percent=True, linewidth=look.width, linestyle=look.dash, marker="o", markersize=2.8
    )
