"""How much the edit costs the original task under corruptions (eq. 1), by severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edit_robust.evaluate.statistics.penalties import SEVERITIES, corrupted
from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import counted, gather, numbered, points_axis, scores, whole

NAME = "original-penalty"
TITLE = "What the edit costs the original task, by severity (eq. 1)"
CAPTION = (
    "Accuracy of the edited model less that of the unedited one on the same corrupted images of the original task. "
    "Dots: means over pairs, layers and corruptions. Bars: one standard deviation over them, so they show how much it "
    "depends on which, not how well the mean is known. Severity 0 are the clean images. All layers count here, also "
    "those that edit badly. (Figure 2c of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether the run asked about corrupted images of the original task."""
    return len(corrupted(scores(run), "original")) > 0


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A panel a model, a line a method."""
    table = whole(gather(runs, shifts=True))
    table = table[(table.probe == "original") & ((table["shift"] == "none") | (table.severity > 0))]
    table = table.assign(penalty=100 * (table.accuracy - table.unedited).astype(float))
    models, colors = numbered(table.model), numbered(table.method)
    figure, axes = style.panels(TITLE, 1, max(len(models), 1), width=6.4 if len(models) < 2 else 4.6, height=3.2)
    for ax, model in zip(axes[0], models or [""], strict=True):
        rows = table[table.model == model]
        for method, number in colors.items():
            line_of(ax, rows[rows.method == method], number, (number - (len(colors) - 1) / 2) * 0.09)
        if style.empty(ax):
            continue
        n = rows.n.max()
        ax.set_title(f"{model}: {counted(rows.pair.nunique(), 'pair')}, {counted(int(n), 'image')} each", fontsize=10)
        points_axis(ax)
        ax.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
        ax.set_xlabel("severity of the corruption")
    style.legend(figure, [style.handle(name, style.color_of(number), marker="o") for name, number in colors.items()])
    return figure


def line_of(ax: Axes, rows: pd.DataFrame, number: int, aside: float) -> None:
    """Means and standard deviations of one method; lines stand a little aside of each other."""
    by = rows.groupby("severity").penalty
    mean, spread = by.mean().dropna(), by.std(ddof=0)
    if mean.empty:
        return
    x = mean.index.to_numpy(dtype=float) + aside
    look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linewidth": 1.7, "capsize": 2.5, "elinewidth": 1.0}
    error = np.nan_to_num(spread.reindex(mean.index).to_numpy(dtype=float))
    ax.errorbar(x, mean.to_numpy(), error, color=style.color_of(number), linestyle=style.dash_of(number), **look)
