"""The taught task against the original task along alpha: a curve a layer, and one of the whole tower."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.grouping import natural
from edit_robust.figures.vision.patching_points import (
    CLEAN,
    axis_label,
    draw_panel,
    legend,
    looks,
    panel_title,
    points,
    task_label,
    wants,
)

__all__ = ["CAPTION", "NAME", "TITLE", "draw", "wants"]

NAME = "patching"
TITLE = "Patching: the taught task against the original task"
CAPTION = (
    "Up: accuracy on the task that the model was taught. Right: accuracy on clean images of the original task. Each "
    "curve goes from the unedited model (star, alpha 0) through points between the weights to the fine-tuned one "
    "(large dot, alpha 1): coloured where a single layer was trained, black where the whole image tower was. Means "
    "over seeds, a panel a task. The upper right corner is best; a curve that bulges towards it gains more than it "
    "costs on the way. (Figure 4 of the vision paper.)"
)


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a task, a curve a place."""
    table = points(runs)
    table = table[table.kind == CLEAN]
    panels = sorted(table.panel.unique(), key=natural)
    ncols = min(max(len(panels), 1), 3)
    nrows = max(-(-len(panels) // ncols), 1)
    figure, axes = style.panels(TITLE, nrows, ncols, width=6.0 if ncols == 1 else 3.9, height=3.3)
    drawn = looks(table)
    for place, ax in enumerate(axes.flat):
        if place >= max(len(panels), 1):
            ax.set_visible(False)
            continue
        rows = table[table.panel == panels[place]] if panels else table
        draw_panel(ax, rows, "original", "task", drawn)
        if len(rows):
            ax.set_title(panel_title(panels[place], rows), fontsize=10)
            ax.set_xlabel(axis_label(CLEAN, rows.n_original.max()))
            ax.set_ylabel(task_label(rows))
    legend(figure, drawn)
    return figure
