"""The original task under shifts against its clean accuracy, and against the taught task, along alpha."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.patching_points import (
    CLEAN,
    axis_label,
    draw_panel,
    grid,
    legend,
    looks,
    panel_title,
    points,
    shifts_of,
    task_label,
)
from edit_robust.figures.vision.patching_points import wants as wants_points

NAME = "patching-shifts"
TITLE = "Patching: the original task under shifts"
CAPTION = (
    "Up: accuracy on shifted images of the original task: each natural shift (renditions stand for ImageNet-R), and "
    "the mean over all corruptions. Right: accuracy on its clean images (upper row of each shift) and on the taught "
    "task (lower row). Each curve goes from the unedited model (star, alpha 0) to the fine-tuned one (large dot, "
    "alpha 1), small dots are alphas between: coloured where a single layer was trained, black where the whole image "
    "tower was. Means over seeds, a column a task. A curve above the black one keeps more out of distribution for the "
    "same clean or task accuracy. (Figure 1 of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether a patched model was asked about shifted images of the original task."""
    return wants_points(run) and len(shifts_of(points([run]))) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """Two rows a shift (against clean, against task accuracy), a column a task."""
    table = points(runs)
    shifts = shifts_of(table)
    figure, axes, panels = grid(TITLE, table, 2 * len(shifts), height=2.6)
    if not shifts:
        return figure
    drawn = looks(table)
    for i, shift in enumerate(shifts):
        for j, panel in enumerate(panels):
            rows = table[(table.panel == panel) & (table.kind == shift)]
            for ax, x in ((axes[2 * i][j], "original"), (axes[2 * i + 1][j], "task")):
                draw_panel(ax, rows, x, "accuracy", drawn)
                if rows.empty:
                    continue
                if i == 0 and x == "original":
                    ax.set_title(panel_title(panel, rows), fontsize=10)
                ax.set_xlabel(axis_label(CLEAN, rows.n_original.max()) if x == "original" else task_label(rows))
                if j == 0:
                    ax.set_ylabel(axis_label(shift, rows.n.max()), fontsize=9)
    legend(figure, drawn)
    return figure
