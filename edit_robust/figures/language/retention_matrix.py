"""Edit x checkpoint as a heat map: which past edits are right, forgotten, back, at every moment they were asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from edit_robust.evaluate.retention_matrix import Matrix
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import groups
from edit_robust.figures.language import matrices

NAME = "retention-matrix"
TITLE = "What became of every edit"
CAPTION = (
    "One row an edit, in the order they were made; one column a moment at which all past edits were asked their own "
    "question. Read a row from left to right for the fate of one edit: forgotten, and perhaps back. Red that spreads "
    "row by row is gradual forgetting; red over all rows from one column on is a model that broke at once. Of several "
    "orders of one setting the first is shown."
)
#: What a cell can be, in the order of their numbers.
FATES = (
    ("not made yet", "#ffffff"),
    ("right", "#9ccbe8"),
    ("right again after it was forgotten", "#e6b84f"),
    ("forgotten", "#b5362c"),
    ("was never right", "#d9d9d9"),
)
PANELS = 6


def wants(run: RunData) -> bool:
    """Whether a sequence kept what became of each of its edits."""
    return matrices.held(run)


def fates(matrix: Matrix) -> np.ndarray:
    """Edit x checkpoint: the place in `FATES`."""
    right = matrix.right
    before = np.zeros_like(right, dtype=bool)
    before[:, 1:] = np.logical_or.accumulate(right == 0, axis=1)[:, :-1]
    found = np.where(right == 1, np.where(before, 2, 1), 3)
    found[~matrix.taught] = 4
    found[np.isnan(right)] = 0
    return found


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a setting."""
    chosen = [(group, m) for group in groups(runs) if (m := matrices.matrix(group.runs[0])) is not None]
    shown = chosen[:PANELS]
    ncols = min(max(len(shown), 1), 3)
    nrows = -(-max(len(shown), 1) // ncols)
    figure, axes = style.panels(TITLE, nrows, ncols, width=5.2 if ncols == 1 else 4.2, height=3.6)
    for ax, (group, found) in zip(axes.flat, shown, strict=False):
        draw_panel(ax, found)
        ax.set_title(group.label + (f" (first of {len(group.runs)} runs)" if len(group.runs) > 1 else ""))
    for ax in axes.flat[len(shown) :]:
        if shown:
            ax.set_visible(False)
        else:
            style.empty(ax)
    present = {int(v) for _, found in shown for v in np.unique(fates(found))}
    boxes = [
        style.Patch(facecolor=color, edgecolor="#9a9a9a", linewidth=0.5, label=words)
        for place, (words, color) in enumerate(FATES)
        if place in present
    ]
    style.legend(figure, boxes)
    return figure


def draw_panel(ax: Axes, matrix: Matrix) -> None:
    """One matrix; columns as wide as the distance to the checkpoint before."""
    colors = ListedColormap([color for _, color in FATES])
    edges = np.concatenate([[0.0], matrix.seen])
    rows = np.arange(len(matrix.taught) + 1) + 0.5
    look: dict[str, Any] = {
        "cmap": colors,
        "norm": BoundaryNorm(np.arange(len(FATES) + 1) - 0.5, len(FATES)),
        "rasterized": True,
    }
    ax.pcolormesh(edges, rows, fates(matrix), **look)
    ax.grid(False)
    ax.set_ylim(rows[-1], rows[0])
    ax.set_ylabel("edit")
    ax.yaxis.set_major_locator(style.MaxNLocator(6, integer=True))
    style.count_axis(ax, "number of edits in the model")
