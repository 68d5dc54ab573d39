"""Every single corruption of the original task along alpha: a panel a corruption, a curve a layer or the tower."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.common import words
from edit_robust.figures.vision.corruptions import families
from edit_robust.figures.vision.patching_points import CORRUPTED, draw_panel, legend, looks, panel_title, points
from edit_robust.figures.vision.patching_points import wants as wants_points

NAME = "patching-corruptions"
TITLE = "Patching: every corruption along alpha"
CAPTION = (
    "Accuracy on the original task under each corruption at severity 3 (or the measured one nearest to it) against "
    "alpha, from the unedited weights (0, star) to the fine-tuned ones (1, large dot): coloured where a single layer "
    "was trained, black where the whole image tower was. Means over seeds, a block of panels a task; axes differ from "
    "panel to panel. (Second figure 7 of the vision paper.)"
)
COLUMNS = 5


def wants(run: RunData) -> bool:
    """Whether a patched model was asked about corrupted images of the original task."""
    return wants_points(run) and bool((points([run]).kind == CORRUPTED).any())


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Accuracy under each corruption against alpha."""
    return draw_blocks(runs, TITLE, "alpha", "alpha")


def draw_blocks(runs: Sequence[RunData], title: str, x: str, across: str) -> Figure:
    """A block of panels a task, a panel a corruption; x: a column of `points`, across: what it is in words."""
    table, severity = single_corruptions(points(runs))
    panels = sorted(table.panel.unique(), key=natural)
    names = [name for members in families(list(dict.fromkeys(table.corruption))).values() for name in members]
    ncols = min(max(len(names), 1), COLUMNS)
    high = max(-(-len(names) // ncols), 1)
    figure, axes = style.panels(title, high * max(len(panels), 1), ncols, width=5.6 if ncols == 1 else 2.5, height=2.0)
    if not panels:
        style.empty(axes[0][0])
        return figure
    drawn = looks(table)
    for block, panel in enumerate(panels):
        some = table[table.panel == panel]
        for place in range(high * ncols):
            ax = axes[block * high + place // ncols][place % ncols]
            if place >= len(names):
                ax.set_visible(False)
                continue
            rows = some[some.corruption == names[place]]
            draw_panel(ax, rows, x, "accuracy", drawn)
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_title(words(names[place]), fontsize=9.5)
            if place % ncols == 0:
                ax.set_ylabel(f"{panel_title(panel, some)}\nseverity {severity}", fontsize=8.5)
            if place + ncols >= len(names):
                ax.set_xlabel(across, fontsize=9)
    legend(figure, drawn)
    return figure


def single_corruptions(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of single corruptions at the severity nearest to 3, with `corruption` beside; and that severity."""
    rows = table[table.kind.str.contains("/", regex=False)]
    split = rows.kind.str.partition("/")
    rows = rows.assign(corruption=split[0], severity=split[2].astype(int)) if len(rows) else rows.assign(corruption="")
    if rows.empty:
        return rows, 3
    severity = min(rows.severity.unique(), key=lambda one: (abs(one - 3), one))
    return rows[rows.severity == severity], int(severity)
