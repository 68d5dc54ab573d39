"""How well each method makes the edit: accuracy on the edit's own validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from edit_robust.figures import style
from edit_robust.figures.frame import RunData
from edit_robust.figures.vision.common import (
    best_layers,
    counted,
    curve,
    gather,
    interval,
    numbered,
    pairs_and_seeds,
    whisker,
)

NAME = "edit-accuracy"
TITLE = "How well the edit works, by method"
CAPTION = (
    "Accuracy on held-out images that show the new concept, after the whole edit. A bar is the mean over pairs "
    "(requests and seeds) of the best layer; the best layer is chosen by this very number, which flatters methods "
    "tried on more layers. Whiskers: 95 % t interval over pairs, or over images (Clopper-Pearson) where there "
    "is one pair. Dotted: the unedited model on the same images. Read it beside what the edit cost: a method can win "
    "here and ruin the original task. (Figure 2a of the vision paper.)"
)


def wants(run: RunData) -> bool:
    """Whether the run measured its edit on images."""
    return bool(curve(run).edit_accuracy.notna().any())


@style.styled
def draw(runs: Sequence[RunData]) -> Figure:
    """A cluster of bars a model, a bar a method."""
    table = best_layers(gather(runs))
    models, colors = numbered(table.model), numbered(table.method)
    width = max(7.0, 1.6 + len(models) * (0.6 + 0.75 * len(colors)))
    figure, axes = style.panels(TITLE, 1, 1, width=min(width, 13.0), height=3.3)
    ax = axes[0][0]
    step = 0.84 / max(len(colors), 1)
    for (model, method), rows in table.groupby(["model", "method"]):
        x = models[str(model)] - 0.42 + step * (colors[str(method)] + 0.5)
        found = interval(rows.edit_accuracy, rows.pair, rows.n_edit)
        ax.bar(x, 100 * found[0], step * 0.86, color=style.color_of(colors[str(method)]), edgecolor="white")
        whisker(ax, x, found)
        before = 100 * float(rows.unedited_edit_accuracy.mean())
        if np.isfinite(before):
            ax.hlines(before, x - step * 0.43, x + step * 0.43, color=style.INK, linestyle=":", linewidth=1.5)
        look: dict[str, Any] = {"ha": "center", "fontsize": 8.5, "fontweight": "bold"}
        inside = found[0] >= 0.12
        color, at = ("white", 2.5) if inside else (style.INK, 100 * np.nanmax(found) + 2)
        ax.text(x, at, f"{100 * found[0]:.0f}", color=color, **look)
        ax.text(x, at + 6.5 if inside else at + 6, layers_text(rows), color=color, ha="center", fontsize=7.5)
    if not style.empty(ax):
        style.percent_axis(ax)
        ax.set_ylim(0, 104)
        ax.set_ylabel("accuracy on edited images")
        ax.grid(False, axis="x")
        texts = [f"{model}\n{size(table[table.model == model])}" for model in models]
        ax.set_xticks(list(models.values()), texts)
        ax.set_xlim(-0.5, len(models) - 0.5)
    entries: list[Any] = [style.Patch(color=style.color_of(number), label=name) for name, number in colors.items()]
    dotted = [style.handle("unedited model", style.INK, linestyle=":", linewidth=1.5)] if len(table) else []
    style.legend(figure, [*entries, *dotted])
    return figure


def layers_text(rows: pd.DataFrame) -> str:
    """Which layer was the best one, where all pairs agree; else how many different ones."""
    names = {str(name) for name in rows.layer}
    return names.pop().replace("layer ", "L") if len(names) == 1 else f"{len(names)} layers"


def size(rows: pd.DataFrame) -> str:
    """On how much the bars stand: pairs, seeds, images."""
    images = int(rows.drop_duplicates("unit").n_edit.fillna(0).sum())
    return f"{pairs_and_seeds(rows)}, {counted(images, 'image')}"
